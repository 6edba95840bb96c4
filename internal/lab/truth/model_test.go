package truth

import (
	"fmt"
	"strconv"

	"repmgr/internal/sim"
)

// model plays on the simulator's servers.
type model struct{ *sim.Servers }

func newModel(seed uint64) model { return model{sim.NewServers(seed, 2)} }

func (m model) play(n int, verb, object string) (seen string, err error) {
	look, known := map[string]func() string{
		"writes":         func() string { m.Write(n, object); return m.Answer(object, true) },
		"begins":         func() string { m.Write(n, object); return m.Answer(object, false) },
		"asks":           func() string { m.Write(n, object); return m.Answer(object, false) },
		"answers":        func() string { return m.Answer(object, true) },
		"orphan-writes":  func() string { m.WriteOrphan(n, object); return m.Answer(object, true) },
		"rows":           func() string { return m.Rows(n) },
		"gets":           func() string { return m.Gets(n, object) },
		"state":          func() string { return m.State(n) },
		"is-silent":      func() string { return m.State(n) },
		"timeline":       func() string { return strconv.Itoa(m.Timeline(n)) },
		"received":       func() string { return m.Received(n) },
		"receiver":       func() string { return m.Receiver(n, false) },
		"loses-receiver": func() string { return m.Receiver(n, true) },
		"starts":         func() string { return m.Start(n) },
		"ends":           func() string { return m.Gone(n) },
		"loses-backend":  func() string { return m.KillBackend(n) },
		"promotes":       func() string { return m.Promote(n, number(object)) },
	}[verb]
	if known {
		return look(), nil
	}
	do, known := map[string]func(){
		"stops":            func() { m.Stop(n) },
		"is-killed":        func() { m.Kill(n) },
		"is-busy":          func() {},
		"loses-postmaster": func() { m.KillPostmaster(n, object != "") },
		"freezes":          func() { m.Freeze(n) },
		"thaws":            func() { m.Thaw(n) },
		"hangs":            func() { m.Hang(n, true) },
		"goes-on":          func() { m.Hang(n, false) },
		"stops-sender":     func() { m.StopSender(n, number(object)) },
		"arms":             func() { m.Arm(n) },
		"points-at":        func() { m.Point(n, number(object)) },
		"holds-replay":     func() { m.HoldReplay(n, true) },
		"replays":          func() { m.HoldReplay(n, false) },
		"ends-receiver":    func() { m.EndReceiver(n) },
		"rewinds-to":       func() { m.Rewind(n, number(object)) },
		"names":            func() { m.names(n, object) },
		"cancels":          func() { m.Cancel(object) },
		"fills":            func() { m.Fill(n) },
	}[verb]
	if !known {
		return "", fmt.Errorf("the model does not know the verb %q", verb)
	}
	do()
	return "", nil
}

func (m model) names(n int, object string) {
	if object == "" {
		m.Names(n)
		return
	}
	m.Names(n, number(object))
}

// number is a node's or a timeline's; what is none is zero, which is nobody.
func number(object string) int {
	n, _ := strconv.Atoi(object)
	return n
}
