package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// DefaultMajor is the PostgreSQL that is used when nothing else is asked for.
const DefaultMajor = 15

// Major is the major version that REPMGR_PG_MAJOR asks for, else DefaultMajor.
func Major() int {
	if n, err := strconv.Atoi(os.Getenv("REPMGR_PG_MAJOR")); err == nil {
		return n
	}
	return DefaultMajor
}

// Find is the folder of PostgreSQL's server programs of a major version; zero
// asks for Major(). It looks at REPMGR_PG_BIN, below .pg of this repository,
// where Debian puts them, and in PATH; a zero major settles for another version
// when that is all this machine has.
func Find(major int) (bindir string, err error) {
	if dir := os.Getenv("REPMGR_PG_BIN"); dir != "" {
		return dir, isBindir(dir)
	}
	anyWill := major == 0 && os.Getenv("REPMGR_PG_MAJOR") == ""
	if major == 0 {
		major = Major()
	}
	var tried []string
	for _, dir := range candidates(major) {
		if err := isBindir(dir); err == nil {
			// .pg may be a link out of a checkout that the servers' user cannot enter.
			return filepath.EvalSymlinks(dir)
		}
		tried = append(tried, dir)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		dir := filepath.Dir(path)
		if found, err := majorOf(dir); err == nil && (found == major || anyWill) {
			return dir, nil
		}
	}
	if anyWill {
		if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) > 0 {
			return filepath.Dir(found[len(found)-1]), nil
		}
	}
	return "", fmt.Errorf("find PostgreSQL %d: no initdb in %s nor in PATH; run scripts/install-postgres (the distribution's) or scripts/install-majors (13, 17, 18), or set REPMGR_PG_BIN",
		major, strings.Join(tried, ", "))
}

func candidates(major int) []string {
	m := strconv.Itoa(major)
	debian := filepath.Join("usr/lib/postgresql", m, "bin")
	var dirs []string
	if root, err := repository(); err == nil {
		dirs = append(dirs, filepath.Join(root, ".pg", m, debian), filepath.Join(root, ".pg", m, "bin"))
	}
	return append(dirs, "/"+debian)
}

func isBindir(dir string) error {
	for _, program := range []string{"initdb", "postgres", "pg_ctl"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return err
		}
	}
	return nil
}

// majorOf asks the server program in dir for its major version.
func majorOf(dir string) (int, error) {
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask %s/postgres for its version: %w", dir, err)
	}
	return parseMajor(string(out))
}

// parseMajor reads the line that postgres --version prints.
func parseMajor(line string) (int, error) {
	fields := strings.Fields(line)
	if len(fields) < 3 {
		return 0, fmt.Errorf("read version %q: expected \"postgres (PostgreSQL) 15.1\"", strings.TrimSpace(line))
	}
	digits := strings.FieldsFunc(fields[2], func(r rune) bool { return r < '0' || r > '9' })
	if len(digits) == 0 {
		return 0, fmt.Errorf("read version %q: no number in it", strings.TrimSpace(line))
	}
	return strconv.Atoi(digits[0])
}

// repository is the folder of this module's go.mod, looked for from the working
// directory upwards, then from the running program's folder.
func repository() (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, dir := range starts {
		for ; ; dir = filepath.Dir(dir) {
			b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
			if err == nil && strings.HasPrefix(string(b), "module repmgr\n") {
				return dir, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", fmt.Errorf("find the repository: no go.mod of module repmgr above %s", strings.Join(starts, " or "))
}

var built struct {
	sync.Once
	dir string
	err error
}

// Build compiles repmgr and repmgrd once per process and returns the folder
// they are in, which every user can read; builds of one state of the code share
// the compiler's cache. REPMGR_BIN names a folder with programs to use instead.
func Build(ctx context.Context) (bindir string, err error) {
	if dir := os.Getenv("REPMGR_BIN"); dir != "" {
		_, noCommand := os.Stat(filepath.Join(dir, "repmgr"))
		_, noDaemon := os.Stat(filepath.Join(dir, "repmgrd"))
		return dir, errors.Join(noCommand, noDaemon)
	}
	built.Do(func() { built.dir, built.err = build(ctx) })
	return built.dir, built.err
}

func build(ctx context.Context) (string, error) {
	root, err := repository()
	if err != nil {
		return "", err
	}
	// One folder per process: a later build must not replace a program that runs.
	dir, err := makeOwned(buildPrefix)
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	atExit(func() { os.RemoveAll(dir) })
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+"/", "./cmd/repmgr", "./cmd/repmgrd")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build repmgr and repmgrd: %w\n%s", err, out)
	}
	return dir, nil
}
