package quorum

import "fmt"

// logger hands raft's lines to a function, if there is one. Debug is left out; what
// raft calls fatal is a panic here, which guard catches.
type logger func(string)

func (l logger) say(line string) {
	if l != nil {
		l(line)
	}
}

func (l logger) sayf(format string, v []any) {
	if l != nil {
		l(fmt.Sprintf(format, v...))
	}
}

func (l logger) Debug(...any)          {}
func (l logger) Debugf(string, ...any) {}

func (l logger) Info(v ...any)                    { l.say(fmt.Sprint(v...)) }
func (l logger) Infof(format string, v ...any)    { l.sayf(format, v) }
func (l logger) Warning(v ...any)                 { l.say(fmt.Sprint(v...)) }
func (l logger) Warningf(format string, v ...any) { l.sayf(format, v) }
func (l logger) Error(v ...any)                   { l.say(fmt.Sprint(v...)) }
func (l logger) Errorf(format string, v ...any)   { l.sayf(format, v) }
func (l logger) Fatal(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l logger) Fatalf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
func (l logger) Panic(v ...any)                   { panic(fmt.Sprint(v...)) }
func (l logger) Panicf(format string, v ...any)   { panic(fmt.Sprintf(format, v...)) }
