// Package fault is how failure is told: what happened, what was found, what to
// do about it, and with which exit status the command ends.
package fault

import (
	"errors"
	"fmt"
)

// Code is an exit status of the repmgr command; the numbers are repmgr 5's.
type Code int

// The exit statuses, by repmgr 5's names without the ERR_ prefix.
const (
	Success              Code = 0
	BadConfig            Code = 1
	BadRsync             Code = 2
	BadPidfile           Code = 3
	NoRestart            Code = 4
	LocalCommand         Code = 5
	DBConn               Code = 6
	DBQuery              Code = 7
	PromotionFail        Code = 8
	MonitoringTimeout    Code = 9
	BadSSH               Code = 12
	SysFailure           Code = 13
	BadBasebackup        Code = 14
	Internal             Code = 15
	SwitchoverFail       Code = 18
	Barman               Code = 19
	RegistrationSync     Code = 20
	SwitchoverIncomplete Code = 22
	FollowFail           Code = 23
	RejoinFail           Code = 24
	NodeStatus           Code = 25
	RepmgrdPause         Code = 26
	RepmgrdService       Code = 27
	PgBackupAPIService   Code = 28
)

// Error is a failure that an operator reads. Msg says what could not be done,
// Detail what was found and what was expected, Hint what to do.
type Error struct {
	Code   Code
	Msg    string
	Detail string
	Hint   string
	Err    error // the cause, if there is one
}

// Error is the message and its cause on one line; Detail and Hint are printed apart.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Msg + ": " + e.Err.Error()
	}
	return e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an Error whose message is formatted as by fmt.Sprintf.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...)}
}

// Wrap is New with a cause.
func Wrap(err error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Msg: fmt.Sprintf(format, args...), Err: err}
}

// WithDetail returns e with what was found, formatted as by fmt.Sprintf.
func (e *Error) WithDetail(format string, args ...any) *Error {
	e.Detail = fmt.Sprintf(format, args...)
	return e
}

// WithHint returns e with what to do, formatted as by fmt.Sprintf.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// CodeOf is the exit status that err asks for: its own if it is or wraps an
// *Error, Success for nil, Internal otherwise.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return Success
	case errors.As(err, &e):
		return e.Code
	default:
		return Internal
	}
}
