package conf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// setting is a line of a configuration file that sets a parameter or names a
// file to include.
type setting struct {
	line  int
	name  string
	value string // quotes and escapes undone
}

// maxSyntaxErrors is the number of errors after which a file is given up: it
// is then not a configuration file at all.
const maxSyntaxErrors = 100

// scan reads the text of a configuration file by the rules of postgresql.conf:
// one "name = value" a line, the equals sign optional, # begins a comment, and
// what is more than a word or a number stands in single quotes.
func scan(file, text string) (settings []setting, problems []Problem) {
	line := 0
	for s := range strings.SplitSeq(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line++
		set, ok, err := scanLine(s)
		if err != nil {
			problems = append(problems, Problem{File: file, Line: line, Param: set.name, Msg: err.Error()})
		}
		if len(problems) > maxSyntaxErrors {
			msg := fmt.Sprintf("more than %d errors; the rest of the file is not read", maxSyntaxErrors)
			return settings, append(problems, Problem{File: file, Line: line, Msg: msg})
		}
		if ok {
			set.line = line
			settings = append(settings, set)
		}
	}
	return settings, problems
}

// scanLine reads one line; ok is false for one that sets nothing. Errors name
// single characters only, since the line may hold a password.
func scanLine(s string) (set setting, ok bool, err error) {
	i := skipBlank(s, 0)
	if i == len(s) || s[i] == '#' {
		return set, false, nil
	}
	end := scanName(s, i)
	if end == i {
		return set, false, fmt.Errorf("a line begins with a name, not with %s", character(s[i:]))
	}
	set.name = s[i:end]
	i = skipBlank(s, end)
	if i < len(s) && s[i] == '=' {
		i = skipBlank(s, i+1)
	} else if i == end && i < len(s) && s[i] != '\'' && s[i] != '#' {
		return set, false, fmt.Errorf("%s cannot stand in a name", character(s[i:]))
	}
	if i == len(s) || s[i] == '#' {
		return set, false, errors.New("the value is missing (an empty one is written '')")
	}
	set.value, i, err = scanValue(s, i)
	if err != nil {
		return set, false, err
	}
	if i = skipBlank(s, i); i < len(s) && s[i] != '#' {
		return set, false, fmt.Errorf("there is more on the line after the value, beginning with %s; "+
			"a value that is more than one word or number stands in single quotes", character(s[i:]))
	}
	return set, true, nil
}

// scanName returns the end of the name that begins at i. A name may have one
// dot in it, as in postgresql.conf, though no parameter of ours does.
func scanName(s string, i int) int {
	dots := 0
	for start := i; i < len(s); i++ {
		letterBefore := i > start && s[i-1] != '.'
		switch {
		case isLetter(s[i]), isDigit(s[i]) && letterBefore:
		case s[i] == '.' && letterBefore && dots == 0:
			dots++
		default:
			return i
		}
	}
	return i
}

// scanValue reads the value that begins at i and says where it ends.
func scanValue(s string, i int) (value string, end int, err error) {
	switch c := s[i]; {
	case c == '\'':
		return scanQuoted(s, i+1)
	case c == '"':
		return "", i, errors.New("a value stands in single quotes, not in double quotes")
	case isLetter(c):
		for end = i; end < len(s) && (isLetter(s[end]) || isDigit(s[end]) || strings.IndexByte("-._:/", s[end]) >= 0); {
			end++
		}
		return s[i:end], end, nil
	}
	end = i
	if s[end] == '-' || s[end] == '+' {
		end++
	}
	digits := end
	for end < len(s) && (isDigit(s[end]) || s[end] == '.') {
		end++
	}
	if end == digits {
		return "", i, fmt.Errorf("a value that begins with %s stands in single quotes", character(s[i:]))
	}
	for end < len(s) && (isLetter(s[end]) || isDigit(s[end])) { // its unit
		end++
	}
	return s[i:end], end, nil
}

// scanQuoted reads on from behind the opening quote.
func scanQuoted(s string, i int) (value string, end int, err error) {
	var b strings.Builder
	for i < len(s) {
		switch {
		case s[i] == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i += 2
		case s[i] == '\'':
			return b.String(), i + 1, nil
		case s[i] == '\\' && i+1 < len(s):
			c, size := unescape(s[i+1:])
			b.WriteByte(c)
			i += 1 + size
		default:
			b.WriteByte(s[i])
			i++
		}
	}
	return "", i, errors.New("the single quote that ends the value is missing")
}

// unescape reads what follows a backslash: the character meant and how many
// bytes were read for it.
func unescape(s string) (c byte, size int) {
	switch s[0] {
	case 'b':
		return '\b', 1
	case 'f':
		return '\f', 1
	case 'n':
		return '\n', 1
	case 'r':
		return '\r', 1
	case 't':
		return '\t', 1
	}
	for size < 3 && size < len(s) && s[size] >= '0' && s[size] <= '7' {
		c = c<<3 | (s[size] - '0')
		size++
	}
	if size > 0 {
		return c, size
	}
	return s[0], 1
}

// quote writes value so that scan reads it back.
func quote(value string) string {
	return "'" + strings.NewReplacer("'", "''", `\`, `\\`, "\n", `\n`, "\r", `\r`).Replace(value) + "'"
}

// character names the first character of s in quotes.
func character(s string) string {
	for _, r := range s {
		return strconv.Quote(string(r))
	}
	return "nothing"
}

func isLetter(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
