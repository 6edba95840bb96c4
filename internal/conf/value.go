package conf

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"repmgr/internal/cluster"
)

// units are the words for a unit of time, largest first, as in PostgreSQL.
var units = []struct {
	word string
	size time.Duration
}{
	{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// errEmpty is an empty value where it means nothing.
var errEmpty = errors.New("is empty")

// misspelt is an error that knows which word was probably meant.
type misspelt struct{ msg, meant string }

func (e *misspelt) Error() string { return e.msg }

// set reads text, the value as the file means it with quotes and escapes
// undone, into p's field of c. The error says what is wrong with the text and
// what is expected; it does not repeat the text, which may hold a password.
func (p *Param) set(c *Config, text string) error {
	if strings.ContainsRune(text, 0) {
		return errors.New("holds a zero byte")
	}
	switch field := p.at(c).(type) {
	case *cluster.NodeID:
		return p.setInteger((*int)(field), text)
	case *int:
		return p.setInteger(field, text)
	case *bool:
		return setBoolean(field, text)
	case *time.Duration:
		return p.setDuration(field, text)
	case *[]string:
		return p.addList(field, text)
	case *[]Mapping:
		return p.addMapping(field, text)
	case *string:
		return p.setString(field, text)
	default:
		panic(fmt.Sprintf("conf: the field of %s is a %T", p.Name, field))
	}
}

func (p *Param) setInteger(field *int, text string) error {
	text = strings.TrimSpace(text)
	n, err := strconv.ParseInt(text, 10, 64)
	least, most := p.integerRange()
	switch {
	case text == "":
		return errEmpty
	case errors.Is(err, strconv.ErrRange):
		return errors.New("is out of range")
	case err != nil:
		return errors.New("is not a whole number")
	case n < least:
		return errors.New("is too small")
	case n > most:
		return errors.New("is too large")
	}
	*field = int(n)
	return nil
}

// integerRange is the smallest and the largest value of an Integer.
func (p *Param) integerRange() (least, most int64) {
	return mustInt(p.Min), mustInt(p.Max)
}

func mustInt(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		panic("conf: not a limit: " + s)
	}
	return n
}

func setBoolean(field *bool, text string) error {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "on", "yes", "1":
		*field = true
	case "false", "off", "no", "0":
		*field = false
	default:
		return errors.New("is neither true nor false")
	}
	return nil
}

func (p *Param) setDuration(field *time.Duration, text string) error {
	text = strings.TrimSpace(text)
	if p.Kind == Delay && text == "" || p.Off && text == "-1" {
		*field = Unset
		return nil
	}
	if text == "" {
		return errEmpty
	}
	d, err := parseDuration(text, p.Unit)
	if err != nil {
		return err
	}
	least, most := p.durationRange()
	if d < least {
		return errors.New("is too small")
	}
	if d > most {
		return errors.New("is too large")
	}
	*field = d
	return nil
}

// durationRange is the smallest and the largest value of a Duration or Delay.
func (p *Param) durationRange() (least, most time.Duration) {
	return mustDuration(p.Min, p.Unit), mustDuration(p.Max, p.Unit)
}

func mustDuration(s, unit string) time.Duration {
	d, err := parseDuration(s, unit)
	if err != nil {
		panic("conf: not a limit: " + s)
	}
	return d
}

// parseDuration reads a number and a unit; unit is that of a bare number.
func parseDuration(text, unit string) (time.Duration, error) {
	digits := strings.TrimLeft(text, "-+")
	end := strings.IndexFunc(digits, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if end < 0 {
		end = len(digits)
	}
	word := strings.TrimSpace(digits[end:])
	if word == "" {
		word = unit
	}
	whole, fraction, _ := strings.Cut(digits[:end], ".")
	if whole+fraction == "" || len(text)-len(digits) > 1 {
		return 0, errors.New("is not a duration")
	}
	size := unitSize(word)
	if size == 0 {
		return 0, fmt.Errorf("has %q where a unit of time is expected", shorten(word))
	}
	if strings.HasPrefix(text, "-") {
		return 0, errors.New("is negative")
	}
	d, err := scale(strings.TrimLeft(whole, "0"), strings.TrimRight(fraction, "0"), size)
	if err != nil {
		return 0, err
	}
	return d, nil
}

// scale is whole.fraction times size, if that is whole milliseconds.
func scale(whole, fraction string, size time.Duration) (time.Duration, error) {
	if strings.Contains(fraction, ".") {
		return 0, errors.New("is not a duration")
	}
	n, err := strconv.ParseInt("0"+whole, 10, 64)
	if err != nil || n > int64(1<<62/size) { // only digits are left, so it can but be out of range
		return 0, errors.New("is too large")
	}
	d := time.Duration(n) * size
	// Each digit is worth a tenth of the one before it; what is left below a
	// millisecond was asked for but cannot be kept.
	for _, digit := range fraction {
		if size%10 != 0 {
			return 0, errors.New("is finer than a millisecond")
		}
		size /= 10
		d += time.Duration(digit-'0') * size
	}
	if d%time.Millisecond != 0 {
		return 0, errors.New("is finer than a millisecond")
	}
	return d, nil
}

// unitSize is how long the unit of that name is, zero for an unknown one.
func unitSize(word string) time.Duration {
	for _, u := range units {
		if u.word == word {
			return u.size
		}
	}
	return 0
}

func (p *Param) setString(field *string, text string) error {
	if most := mustInt(p.maxLength()); int64(len(text)) > most {
		return errors.New("is too long")
	}
	switch p.Kind {
	case Choice:
		if text == "" {
			text = p.Default
		}
		for _, choice := range p.Choices {
			if strings.EqualFold(choice, text) {
				*field = choice
				return nil
			}
		}
		return &misspelt{"is not one of the values allowed", nearestFold(text, p.Choices)}
	case Path:
		if text != "" {
			text = path.Clean(text)
		}
	case Conninfo:
		if err := checkConninfo(text); err != nil {
			return err
		}
	}
	*field = text
	return nil
}

// maxLength is the longest text that p takes, in bytes.
func (p *Param) maxLength() string {
	if p.Max == "" {
		return textLen
	}
	return p.Max
}

func (p *Param) addList(field *[]string, text string) error {
	list := *field
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		if int64(len(item)) > mustInt(p.Max) {
			return errors.New("has an item that is too long")
		}
		if item != "" {
			list = append(list, item)
		}
	}
	*field = list
	return nil
}

func (p *Param) addMapping(field *[]Mapping, text string) error {
	if text == "" {
		return nil
	}
	before, after, ok := cutUnescaped(text)
	switch {
	case !ok:
		return errors.New("has no = between the old and the new path")
	case before == "" || after == "":
		return errors.New("lacks the path on one side of the =")
	case int64(max(len(before), len(after))) > mustInt(p.Max):
		return errors.New("is too long")
	case !path.IsAbs(before) || !path.IsAbs(after):
		return errors.New("has a path that does not begin with /")
	}
	*field = append(*field, Mapping{Old: path.Clean(before), New: path.Clean(after)})
	return nil
}

// cutUnescaped cuts text at the only = that has no backslash before it, and
// takes the backslashes away from the others.
func cutUnescaped(text string) (before, after string, ok bool) {
	const escaped = "\x00" // no value holds a zero byte
	text = strings.ReplaceAll(text, `\=`, escaped)
	before, after, ok = strings.Cut(text, "=")
	if strings.Contains(after, "=") {
		return "", "", false
	}
	return strings.ReplaceAll(before, escaped, "="), strings.ReplaceAll(after, escaped, "="), ok
}

// Text is the value that c holds for p, as --dump-config prints it; passwords
// in it are replaced by asterisks.
func (p *Param) Text(c *Config) string { return p.redact(strings.Join(p.texts(c), ",")) }

// redact hides the passwords in a value of p.
func (p *Param) redact(text string) string {
	switch p.Kind {
	case Conninfo:
		return redactConninfo(text)
	case Command, Text:
		return redactCommand(text)
	default:
		return text
	}
}

// texts is the value that c holds for p, as set reads it: one text, or for
// Mappings one for each. Passwords are in it.
func (p *Param) texts(c *Config) []string {
	switch field := p.at(c).(type) {
	case *cluster.NodeID:
		return []string{strconv.Itoa(int(*field))}
	case *int:
		return []string{strconv.Itoa(*field)}
	case *bool:
		return []string{strconv.FormatBool(*field)}
	case *time.Duration:
		return []string{p.formatDuration(*field)}
	case *[]string:
		return []string{strings.Join(*field, ",")}
	case *[]Mapping:
		return formatMappings(*field)
	case *string:
		return []string{*field}
	default:
		panic(fmt.Sprintf("conf: the field of %s is a %T", p.Name, field))
	}
}

func (p *Param) formatDuration(d time.Duration) string {
	switch unit := unitSize(p.Unit); {
	case d == Unset && p.Kind == Delay:
		return ""
	case d == Unset:
		return "-1"
	case d%unit == 0:
		return strconv.FormatInt(int64(d/unit), 10)
	default:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	}
}

func formatMappings(mappings []Mapping) []string {
	var texts []string
	escape := strings.NewReplacer("=", `\=`)
	for _, m := range mappings {
		texts = append(texts, escape.Replace(m.Old)+"="+escape.Replace(m.New))
	}
	return texts
}

// Expected says which values p takes, in words.
func (p *Param) Expected() string {
	switch p.Kind {
	case Integer:
		return "a whole number from " + p.Min + " to " + p.Max
	case Boolean:
		return "true or false (or on, off, yes, no, 1, 0)"
	case Duration, Delay:
		return p.expectedDuration()
	case Choice:
		if len(p.Choices) == 1 {
			return p.Choices[0]
		}
		return "one of " + strings.Join(p.Choices, ", ")
	case List:
		return "words separated by commas"
	case Mappings:
		return "/old/path=/new/path"
	case Conninfo:
		return "a connection string: keyword=value pairs, or a URI that begins with postgresql://"
	case Path:
		return "a path of at most " + p.Max + " bytes"
	case Command:
		return "a command for the shell, of at most " + p.Max + " bytes"
	default:
		return "a text of at most " + p.Max + " bytes"
	}
}

// shorten cuts text that is too long to be shown whole.
func shorten(text string) string {
	const most = 80
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

func (p *Param) expectedDuration() string {
	least, most := p.durationRange()
	s := fmt.Sprintf("a duration from %s to %s, such as %s (units ms, s, min, h, d; a bare number is in %s)",
		spell(least), spell(most), "10s", map[string]string{second: "seconds", milli: "milliseconds"}[p.Unit])
	switch {
	case p.Kind == Delay:
		s += ", or nothing"
	case p.Off:
		s += ", or -1"
	}
	return s
}

// spell writes d in the largest unit that keeps it whole.
func spell(d time.Duration) string {
	for _, u := range units {
		if d >= u.size && d%u.size == 0 {
			return strconv.FormatInt(int64(d/u.size), 10) + u.word
		}
	}
	return "0"
}
