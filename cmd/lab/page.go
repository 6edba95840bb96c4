package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// page is what the reader sees: coloured on a terminal, plain elsewhere.
type page struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
}

func stdoutPage() *page {
	return &page{out: os.Stdout, colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
}

// The colours, as terminals number them.
const (
	bold   = "1"
	faint  = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (p *page) paint(colour, s string) string {
	if !p.colour || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (p *page) line(s string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, s)
}

// chapter begins a part of the story.
func (p *page) chapter(format string, args ...any) {
	p.line("\n" + p.paint(bold, "== "+fmt.Sprintf(format, args...)))
}

// say is the narrator.
func (p *page) say(format string, args ...any) { p.line(fmt.Sprintf(format, args...)) }

// command shows what is typed.
func (p *page) command(prompt, command string) {
	p.line(p.paint(faint, prompt+"$ ") + p.paint(cyan, command))
}

// quote shows a program's answer, indented.
func (p *page) quote(text string) {
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		p.line("    " + line)
	}
}
