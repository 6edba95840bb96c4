package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"repmgr/internal/cluster"
)

const oneDay = 24 * time.Hour

// shows is a connection on which that certificate was shown.
func shows(c tls.Certificate) tls.ConnectionState {
	return tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf}}
}

// told is what a watched identity has said.
type told struct {
	learned Keys
	warned  []string
}

func watched(t *testing.T, a Authority, known Keys) (*Identity, *told) {
	t.Helper()
	said := &told{learned: Keys{}}
	i, err := a.WatchedIdentity("node", 1, Watch{Known: known,
		Learned: func(node cluster.NodeID, key string) { said.learned[node] = key },
		Warn:    func(text, hint string) { said.warned = append(said.warned, text+" ("+hint+")") }})
	if err != nil {
		t.Fatal(err)
	}
	return i, said
}

func TestIdentityRenewsItself(t *testing.T) {
	t.Parallel()
	a, now := authority(t), time.Now()
	i, said := watched(t, a, nil)
	first, _ := i.certificate(now)
	if again, _ := i.certificate(now.Add(nodeLife/2 - oneDay)); again != first {
		t.Error("a fresh certificate was made anew")
	}
	later := now.Add(nodeLife/2 + oneDay)
	renewed, err := i.certificate(later)
	if err != nil || bytes.Equal(renewed.Certificate[0], first.Certificate[0]) {
		t.Fatalf("an old certificate stays in use (%v)", err)
	}
	if left := renewed.Leaf.NotAfter.Sub(later); left < nodeLife-oneDay {
		t.Errorf("it was renewed for %s", left)
	}
	if h, _ := holderOf(renewed.Leaf); h.Node != 1 {
		t.Errorf("it was renewed for %s", h)
	}
	if len(said.warned) > 0 {
		t.Errorf("warned: %q", said.warned)
	}
	// One that cannot be renewed stays in use, and its end is told of.
	i.authority.key = nil
	last := renewed.Leaf.NotAfter
	for _, c := range []struct {
		before time.Duration
		want   int
	}{{31 * oneDay, 0}, {29 * oneDay, 1}, {29*oneDay - time.Hour, 1}, {27 * oneDay, 2}} {
		if kept, err := i.certificate(last.Add(-c.before)); kept != renewed || err != nil || len(said.warned) != c.want {
			t.Errorf("%s before its end: the same %v, %v, warned %q", c.before, kept == renewed, err, said.warned)
		}
	}
}

// TestClockSetBack: a host that believes it is 1980 still talks to its peers.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	a := authority(t)
	c, err := a.Issue("node", 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, now := range []time.Time{time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), time.Now(), time.Now().Add(nodeLife - time.Hour)} {
		i, _ := watched(t, a, nil)
		if h, err := i.judge(shows(c), false, now); err != nil || h.Node != 3 {
			t.Errorf("in %d: %v, %v", now.Year(), h, err)
		}
	}
}

// TestEndOfACertificate: it is told of from 30 days before, once a day, and a key that
// was known before is believed after it, also by the daemon's next life; a stranger's is not (safety notes, B30).
func TestEndOfACertificate(t *testing.T) {
	t.Parallel()
	a := authority(t)
	c, err := a.Issue("node", 3)
	if err != nil {
		t.Fatal(err)
	}
	end := c.Leaf.NotAfter
	i, said := watched(t, a, nil)
	for _, s := range []struct {
		at   time.Time
		want int
	}{{end.Add(-31 * oneDay), 0}, {end.Add(-30*oneDay + time.Second), 1}, {end.Add(-30*oneDay + time.Hour), 1}, {end.Add(-28 * oneDay), 2}, {end.Add(oneDay), 3}, {end.Add(3 * nodeLife), 4}} {
		if h, err := i.judge(shows(c), true, s.at); err != nil || h.Node != 3 || len(said.warned) != s.want {
			t.Errorf("%s after its end: %v, %v, warned %q", s.at.Sub(end), h, err, said.warned)
		}
	}
	if len(said.warned) == 4 && (!strings.Contains(said.warned[0], "node 3 ends on "+day(end)+", in 29 days") || !strings.Contains(said.warned[3], "goes on being believed")) {
		t.Errorf("%q", said.warned)
	}
	next, _ := watched(t, a, said.learned)
	if _, err := next.judge(shows(c), false, end.Add(oneDay)); err != nil {
		t.Errorf("by the next life: %v", err)
	}
	stranger, _ := watched(t, a, nil)
	for _, dialled := range []bool{true, false, true} {
		if _, err := stranger.judge(shows(c), dialled, end.Add(oneDay)); !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), "expired on "+day(end)) {
			t.Errorf("a key that nobody knew: %v", err)
		}
	}
	other, err := a.Issue("node", 3)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.judge(shows(other), true, end.Add(oneDay)); err == nil {
		t.Error("another key of a known node was believed")
	}
}

// TestWhoIsLearnt: the key of a daemon that answers, and nobody's who calls: a command does
// so in its node's name, and a reader is nobody.
func TestWhoIsLearnt(t *testing.T) {
	t.Parallel()
	a, now := authority(t), time.Now()
	i, said := watched(t, a, nil)
	for _, c := range []struct {
		node    cluster.NodeID
		dialled bool
		want    int
	}{{3, false, 0}, {0, true, 0}, {3, true, 1}, {3, true, 1}, {2, true, 2}} {
		cert, err := a.issue("node", c.node, now)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.judge(shows(cert), c.dialled, now); err != nil || len(said.learned) != c.want {
			t.Errorf("node %d, dialled %v: %v, %d keys", c.node, c.dialled, err, len(said.learned))
		}
	}
	// A reader's is told of like any other, and ends.
	cert, err := a.issue("haproxy", 0, now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.judge(shows(cert), false, cert.Leaf.NotAfter.Add(-oneDay)); err != nil || len(said.warned) != 1 || !strings.Contains(said.warned[0], "a reader") {
		t.Errorf("%v, %q", err, said.warned)
	}
	if _, err := i.judge(shows(cert), false, cert.Leaf.NotAfter.Add(oneDay)); err == nil {
		t.Error("a reader's certificate that has ended was believed")
	}
}
