package conf

import (
	"fmt"
	"strconv"
	"strings"

	"repmgr/internal/fault"
)

// Problem is one thing that is wrong with a configuration and where it stands.
type Problem struct {
	File     string
	Line     int    // zero: the file as a whole
	Param    string // empty: none in particular
	Found    string // value as found, empty where it may hold a secret or there is none
	Msg      string // what is wrong, so that it reads on after Param and Found
	Expected string // what is allowed, if that is known
	Nearest  string // name or value that was probably meant
}

// Warning is a Problem that does not keep the configuration from being used.
type Warning = Problem

// String is the problem on one line, without a line's end.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		b.WriteString(":" + strconv.Itoa(p.Line))
	}
	b.WriteString(": ")
	if p.Param != "" {
		b.WriteString(p.Param + ": ")
	}
	if p.Found != "" {
		b.WriteString(strconv.Quote(p.Found) + " ")
	}
	b.WriteString(p.Msg)
	if p.Expected != "" {
		b.WriteString("; expected " + p.Expected)
	}
	b.WriteString(didYouMean(p.Nearest))
	return b.String()
}

// Error is everything that is wrong with a configuration. It wraps a
// *fault.Error for BadConfig, whose Detail has one problem on each line.
type Error struct {
	Path     string // of the file that Load was given
	Problems []Problem
}

// Error is a heading and one problem on each line.
func (e *Error) Error() string {
	return e.heading() + ":\n  " + strings.Join(e.lines(), "\n  ")
}

// Unwrap returns the failure as an operator reads it.
func (e *Error) Unwrap() error {
	return fault.New(fault.BadConfig, "%s", e.heading()).
		WithDetail("%s", strings.Join(e.lines(), "\n")).
		WithHint("correct the file; nothing was done")
}

func (e *Error) heading() string {
	if len(e.Problems) == 1 {
		return fmt.Sprintf("configuration file %s has an error", e.Path)
	}
	return fmt.Sprintf("configuration file %s has %d errors", e.Path, len(e.Problems))
}

func (e *Error) lines() []string {
	var lines []string
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return lines
}
