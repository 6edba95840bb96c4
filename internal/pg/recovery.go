package pg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"repmgr/internal/fault"
)

// Recovery is what postgresql.auto.conf says about following another server.
// An empty value stands for an absent setting.
type Recovery struct {
	PrimaryConninfo       string
	PrimarySlotName       string
	RestoreCommand        string
	ArchiveCleanupCommand string
	RecoveryMinApplyDelay string
}

const (
	autoConf      = "postgresql.auto.conf"
	standbySignal = "standby.signal"
)

// settings pairs each field with its name in the file.
func (r *Recovery) settings() []setting {
	return []setting{
		{"primary_conninfo", &r.PrimaryConninfo},
		{"primary_slot_name", &r.PrimarySlotName},
		{"restore_command", &r.RestoreCommand},
		{"archive_cleanup_command", &r.ArchiveCleanupCommand},
		{"recovery_min_apply_delay", &r.RecoveryMinApplyDelay},
	}
}

type setting struct {
	name  string
	value *string
}

// WriteRecovery makes postgresql.auto.conf say exactly r about following:
// settings that are empty in r are removed, all others in the file stay byte for
// byte. The file is replaced in one step and is on disk when this returns.
func WriteRecovery(dataDir string, r Recovery) error {
	values := map[string]string{}
	var order []string
	for _, s := range r.settings() {
		values[s.name] = *s.value
		order = append(order, s.name)
	}
	return editAutoConf(dataDir, order, values)
}

// WriteSetting sets one parameter in postgresql.auto.conf, or removes it where
// the value is empty, as WriteRecovery does. To set an empty string, which some
// parameters need to override postgresql.conf, see WriteEmptySetting.
func WriteSetting(dataDir, name, value string) error {
	return editAutoConf(dataDir, []string{name}, map[string]string{name: value})
}

// WriteEmptySetting sets one parameter to the empty string.
func WriteEmptySetting(dataDir, name string) error {
	return rewriteAutoConf(dataDir, func(text string) string {
		return editConf(text, []string{name}, map[string]*string{name: new(string)})
	})
}

// ReadRecovery reads the settings back. A missing file has none.
func ReadRecovery(dataDir string) (Recovery, error) {
	text, err := os.ReadFile(filepath.Join(dataDir, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Recovery{}, autoConfFault(err, dataDir)
	}
	var r Recovery
	for _, line := range strings.Split(string(text), "\n") {
		name, value, ok := parseConfLine(line)
		if !ok {
			continue
		}
		for _, s := range r.settings() {
			if strings.EqualFold(s.name, name) {
				*s.value = value
			}
		}
	}
	return r, nil
}

func editAutoConf(dataDir string, order []string, values map[string]string) error {
	pointers := map[string]*string{}
	for name, value := range values {
		if strings.ContainsAny(value, "\n\r\x00") {
			return fault.New(fault.BadConfig, "the value of %s holds a line break or a NUL byte", name).
				WithHint("postgresql.auto.conf has one setting a line: correct the value.")
		}
		if value != "" {
			pointers[name] = &value
		}
	}
	return rewriteAutoConf(dataDir, func(text string) string { return editConf(text, order, pointers) })
}

// editConf replaces the settings named in order: the first line of each that
// stands in the text is rewritten, further ones and those without a value are
// removed, missing ones are added at the end. All other bytes stay.
func editConf(text string, order []string, values map[string]*string) string {
	named := map[string]string{}
	for _, name := range order {
		named[lowerASCII(name)] = name
	}
	done := map[string]bool{}
	var b strings.Builder
	for len(text) > 0 {
		line, rest, found := strings.Cut(text, "\n")
		text = rest
		name, ours := named[confName(line)]
		switch {
		case !ours:
			b.WriteString(line)
			if found {
				b.WriteByte('\n')
			}
		case values[name] != nil && !done[name]:
			b.WriteString(confLine(name, *values[name]))
			done[name] = true
		}
	}
	out := b.String()
	for _, name := range order {
		if values[name] == nil || done[name] {
			continue
		}
		if out != "" && !strings.HasSuffix(out, "\n") {
			out += "\n"
		}
		out += confLine(name, *values[name])
		done[name] = true
	}
	return out
}

// confLine writes a setting as postgresql.conf wants it: in single quotes, with
// quotes and backslashes doubled.
func confLine(name, value string) string {
	return name + " = '" + strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value) + "'\n"
}

// confName is the lower-case name of the parameter that a line sets, empty for
// comments and blank lines.
func confName(line string) string {
	line = strings.TrimLeft(line, " \t\r\f\v")
	end := 0
	for end < len(line) && inName(line[end]) {
		end++
	}
	return lowerASCII(line[:end])
}

// inName tells whether a byte may be part of a parameter's name.
func inName(b byte) bool {
	switch {
	case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '_', b == '.', b == '$', b >= 0x80:
		return true
	}
	return false
}

// lowerASCII folds case as PostgreSQL does for names of parameters, and leaves
// bytes that are no UTF-8 as they are.
func lowerASCII(s string) string {
	b := []byte(s)
	for i, ch := range b {
		if 'A' <= ch && ch <= 'Z' {
			b[i] = ch | 0x20
		}
	}
	return string(b)
}

// parseConfLine reads name = value, where the sign may be missing and the value
// may be bare or in quotes, with ” or a backslash before what is special.
func parseConfLine(line string) (name, value string, ok bool) {
	name = confName(line)
	if name == "" {
		return "", "", false
	}
	rest := strings.TrimLeft(line, " \t\r\f\v")[len(name):]
	rest = strings.TrimLeft(rest, " \t\r\f\v")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t\r\f\v")
	if !strings.HasPrefix(rest, "'") {
		end := strings.IndexAny(rest, " \t\r\f\v#")
		if end < 0 {
			end = len(rest)
		}
		return name, rest[:end], end > 0
	}
	var b strings.Builder
	for i := 1; i < len(rest); i++ {
		switch {
		case rest[i] == '\'' && i+1 < len(rest) && rest[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case rest[i] == '\'':
			return name, b.String(), true
		case rest[i] == '\\' && i+1 < len(rest):
			char, used := unescape(rest[i+1:])
			b.WriteByte(char)
			i += used
		default:
			b.WriteByte(rest[i])
		}
	}
	return name, "", false
}

// unescape reads what follows a backslash, as GUC_scanstr of PostgreSQL does:
// b, f, n, r, t, up to three octal digits, or the character itself.
func unescape(s string) (char byte, used int) {
	if at := strings.IndexByte("bfnrt", s[0]); at >= 0 {
		return "\b\f\n\r\t"[at], 1
	}
	for used < 3 && used < len(s) && s[used] >= '0' && s[used] <= '7' {
		char = char<<3 + s[used] - '0'
		used++
	}
	if used > 0 {
		return char, used
	}
	return s[0], 1
}

// turnBound is how long a writer waits for another: one that is stopped must not stop a failover.
const turnBound = 2 * time.Second

// takeTurn keeps the other writers of this program out, the daemon and the commands: each changes
// lines of its own, in what it has read before. Where the lock cannot be had in time, or at all,
// it goes on as PostgreSQL's own ALTER SYSTEM does, which knows nothing of it. It is PG_VERSION
// that is locked: the file itself is replaced, and the directory is its daemon's.
func takeTurn(dataDir string) (end func()) {
	f, err := os.Open(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return func() {}
	}
	for began := time.Now(); time.Since(began) < turnBound; time.Sleep(5 * time.Millisecond) {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
	}
	return func() { _ = f.Close() }
}

// rewriteAutoConf replaces the file durably, with its owner and mode.
func rewriteAutoConf(dataDir string, edit func(string) string) error {
	defer takeTurn(dataDir)()
	path := filepath.Join(dataDir, autoConf)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return autoConfFault(err, dataDir)
	}
	model := path
	if err != nil { // the data directory says who owns its files
		model = dataDir
		text = []byte("# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n")
	}
	info, err := os.Stat(model)
	if err != nil {
		return autoConfFault(err, dataDir)
	}
	mode := info.Mode().Perm() &^ 0o111
	if err := replaceFile(path, []byte(edit(string(text))), mode, info); err != nil {
		return autoConfFault(err, dataDir)
	}
	return nil
}

// replaceFile writes a file beside path, syncs it, renames it over path and
// syncs the directory, so that after a power cut one of both is there, whole.
func replaceFile(path string, data []byte, mode fs.FileMode, owner fs.FileInfo) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if st, ok := owner.Sys().(*syscall.Stat_t); ok && err == nil && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err = f.Chown(int(st.Uid), int(st.Gid))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func autoConfFault(err error, dataDir string) error {
	return fault.Wrap(err, fault.BadConfig, "recovery settings in %s", filepath.Join(dataDir, autoConf)).
		WithHint("Run this as the operating system user that owns the data directory, and check the space left on its disk.")
}

// WriteStandbySignal makes the server of that directory start as a standby. It
// is on disk when this returns.
func WriteStandbySignal(dataDir string) error {
	info, err := os.Stat(dataDir)
	if err == nil {
		err = replaceFile(filepath.Join(dataDir, standbySignal), nil, 0o600, info)
	}
	if err != nil {
		return signalFault(err, dataDir)
	}
	return nil
}

// RemoveStandbySignal makes the server of that directory start as a primary. One
// that is not there is no error.
func RemoveStandbySignal(dataDir string) error {
	err := os.Remove(filepath.Join(dataDir, standbySignal))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(dataDir)
	}
	if err != nil {
		return signalFault(err, dataDir)
	}
	return nil
}

// HasStandbySignal tells whether the server of that directory will start as a standby.
func HasStandbySignal(dataDir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dataDir, standbySignal))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, signalFault(err, dataDir)
	}
	return true, nil
}

func signalFault(err error, dataDir string) error {
	return fault.Wrap(err, fault.BadConfig, "%s", fmt.Sprintf("standby signal in %s", dataDir)).
		WithHint("Run this as the operating system user that owns the data directory, and check the space left on its disk.")
}
