package truth

import (
	"fmt"
	"syscall"

	"repmgr/internal/lab"
)

func (r *servers) play(node int, verb, object string) (string, error) {
	n := r.lab.Node(node)
	if look := r.looks(n, object)[verb]; look != nil {
		return look()
	}
	if do := r.deeds(n, object)[verb]; do != nil {
		return "", do()
	}
	return "", fmt.Errorf("real servers do not know the verb %q", verb)
}

// looks are the verbs that something is seen by.
func (r *servers) looks(n *lab.Node, object string) map[string]func() (string, error) {
	return map[string]func() (string, error){
		"writes":         func() (string, error) { return r.write(n, object) },
		"begins":         func() (string, error) { return r.begins(n, object) },
		"asks":           func() (string, error) { return r.asks(n, object) },
		"answers":        func() (string, error) { return r.over(r.commits[object]) },
		"orphan-writes":  func() (string, error) { return r.orphanWrites(n, object) },
		"rows":           func() (string, error) { return r.rows(n) },
		"gets":           func() (string, error) { return r.gets(n, object) },
		"state":          func() (string, error) { return r.state(n) },
		"is-silent":      func() (string, error) { return r.silent(n) },
		"timeline":       func() (string, error) { return r.timeline(n) },
		"received":       func() (string, error) { return r.received(n) },
		"receiver":       func() (string, error) { return r.receiver(n) },
		"loses-receiver": func() (string, error) { return r.losesReceiver(n) },
		"starts":         func() (string, error) { return r.start(n) },
		"ends":           func() (string, error) { return r.ends(n) },
		"loses-backend":  func() (string, error) { return r.losesBackend(n) },
		"promotes":       func() (string, error) { return r.promotes(n, number(object)) },
	}
}

// deeds are the other verbs.
func (r *servers) deeds(n *lab.Node, object string) map[string]func() error {
	ask := func(question string, args ...any) error {
		_, err := n.SQL(r.ctx, question, args...)
		return err
	}
	return map[string]func() error{
		"stops":            func() error { return n.Stop(r.ctx, "fast") },
		"is-killed":        func() error { return r.kill(n) },
		"is-busy":          func() error { return r.busy(n, object) },
		"loses-postmaster": func() error { return r.losesPostmaster(n, object) },
		"freezes":          func() error { return n.Pause(r.ctx) },
		"thaws":            n.Resume,
		"hangs":            func() error { return n.SignalPostmaster(syscall.SIGSTOP) },
		"goes-on":          func() error { return n.SignalPostmaster(syscall.SIGCONT) },
		"stops-sender":     func() error { return r.stopsSender(n, object) },
		"arms":             func() error { return r.arms(n) },
		"points-at":        func() error { return r.pointsAt(n, number(object)) },
		"holds-replay":     func() error { return ask("SELECT pg_wal_replay_pause()") },
		"replays":          func() error { return ask("SELECT pg_wal_replay_resume()") },
		"ends-receiver":    func() error { return r.endsReceiver(n) },
		"rewinds-to":       func() error { return r.rewindsTo(n, number(object)) },
		"names":            func() error { return r.names(n, object) },
		"cancels":          func() error { return ask("SELECT pg_cancel_backend($1)", int(r.commits[object].pid)) },
		"fills":            func() error { return ask("SELECT pg_logical_emit_message(true, 'truth', repeat('x', 300000))") },
	}
}
