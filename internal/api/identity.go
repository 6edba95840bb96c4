package api

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"sync"
	"time"

	"repmgr/internal/cluster"
)

// warnBefore is how long before a certificate's end people are told, and warnAgain
// how often.
const (
	warnBefore = 30 * 24 * time.Hour
	warnAgain  = 24 * time.Hour
)

// Keys are the keys of the daemons that this one has reached: of each node the
// SHA-256 fingerprint of the last that came with a certificate in its time. Whom it
// has once known so it goes on believing: certificates must not end all leases at
// one moment, because a clock was wrong (safety notes, B30).
type Keys map[cluster.NodeID]string

// Watch is what a daemon does about certificates beside using them.
type Watch struct {
	Known   Keys                                  // from an earlier life
	Learned func(node cluster.NodeID, key string) // another key of a node is known from now on
	Warn    func(text, hint string)               // a certificate is about to end, or has ended
}

// Identity is who a process is within a cluster. Its certificate is made anew
// when half of its time is over, so that a daemon may run for years. It is safe
// for use by several goroutines.
type Identity struct {
	authority Authority
	name      string
	node      cluster.NodeID
	watch     Watch

	mu    sync.Mutex
	cert  *tls.Certificate
	known Keys
	told  map[string]time.Time // when it was last told of a holder's certificate
}

// Identity returns the identity of that node, or of a reader if node is zero.
func (a Authority) Identity(name string, node cluster.NodeID) (*Identity, error) {
	return a.WatchedIdentity(name, node, Watch{})
}

// WatchedIdentity is Identity for a daemon, which tells of certificates that end and
// remembers its peers' keys. What it is given is called by any goroutine.
func (a Authority) WatchedIdentity(name string, node cluster.NodeID, w Watch) (*Identity, error) {
	cert, err := a.Issue(name, node)
	if err != nil {
		return nil, err
	}
	known := maps.Clone(w.Known)
	if known == nil {
		known = Keys{}
	}
	return &Identity{authority: a, name: name, node: node, watch: w, cert: &cert, known: known, told: map[string]time.Time{}}, nil
}

// certificate is the current certificate, renewed if it has grown old. One that
// could not be renewed stays in use: it is still good for half a year.
func (i *Identity) certificate(now time.Time) (*tls.Certificate, error) {
	i.mu.Lock()
	if i.cert.Leaf.NotAfter.Sub(now) < nodeLife/2 {
		if cert, err := i.authority.issue(i.name, i.node, now); err == nil {
			i.cert = &cert
		}
	}
	cert := i.cert
	i.mu.Unlock()
	if left := cert.Leaf.NotAfter.Sub(now); left < warnBefore {
		i.warn("this process", cert.Leaf, now, "It could not be renewed. Restart repmgrd.")
	}
	return cert, nil
}

// judge says who shows a certificate, and whether that one is believed at now. dialled
// says that it was this process that called: then a daemon has answered, whose
// key is kept. A command calls with a key that it never has again.
func (i *Identity) judge(s tls.ConnectionState, dialled bool, now time.Time) (holder, error) {
	h, err := i.authority.verify(s)
	if err != nil {
		return holder{}, err
	}
	cert := s.PeerCertificates[0]
	left, key := cert.NotAfter.Sub(now), fingerprint(cert)
	i.mu.Lock()
	known := h.Node != 0 && i.known[h.Node] == key
	news := left > 0 && dialled && h.Node != 0 && !known
	if news {
		i.known[h.Node] = key
	}
	i.mu.Unlock()
	if news && i.watch.Learned != nil {
		i.watch.Learned(h.Node, key)
	}
	if left <= 0 && !known {
		return holder{}, &refusal{what: fmt.Sprintf("its certificate, of %s, expired on %s (here it is %s)", h, day(cert.NotAfter), day(now)), kind: ErrOtherCluster}
	}
	if left < warnBefore {
		hint := "Its daemon renews it by itself: look at the clocks of both hosts, and restart that repmgrd."
		if h.Node == 0 {
			hint = "Issue another one for it: nobody renews a reader's."
		}
		i.warn(h.String(), cert, now, hint)
	}
	return h, nil
}

// warn tells once a day of a certificate that is about to end.
func (i *Identity) warn(who string, cert *x509.Certificate, now time.Time, hint string) {
	i.mu.Lock()
	last, before := i.told[who]
	due := i.watch.Warn != nil && (!before || now.Sub(last) >= warnAgain || now.Before(last))
	if due {
		i.told[who] = now
	}
	i.mu.Unlock()
	if !due {
		return
	}
	text := fmt.Sprintf("the certificate of %s ends on %s, in %d days", who, day(cert.NotAfter), int(cert.NotAfter.Sub(now)/(24*time.Hour)))
	if !now.Before(cert.NotAfter) {
		text = fmt.Sprintf("the certificate of %s ended on %s (here it is %s); its key is known, and it goes on being believed", who, day(cert.NotAfter), day(now))
	}
	i.watch.Warn(text, hint)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// fingerprint names a certificate's key.
func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ServerTLS is the configuration of the listening side; s.ServeTCP(l, id.ServerTLS).
func (i *Identity) ServerTLS() *tls.Config {
	c := i.config()
	// Any certificate is let through to VerifyConnection, which judges both sides
	// alike and says what is wrong in words.
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := i.judge(s, false, time.Now())
		return err
	}
	return c
}

// ClientTLS is the configuration of the dialling side. Dial adds the check that
// the one who answers is the node that was meant.
func (i *Identity) ClientTLS() *tls.Config {
	c := i.config()
	// Names of hosts say nothing here: they differ by the side from which a node
	// is looked at. VerifyConnection checks the signature and the node's number.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		holder, err := i.judge(s, true, time.Now())
		if err == nil && holder.Node == 0 {
			err = &refusal{what: "its certificate is a reader's and not a node's", kind: ErrWrongNode}
		}
		return err
	}
	return c
}

// config is what both sides have in common. Sessions are not resumed: kept
// connections make it needless, and so each connection's certificate is checked.
func (i *Identity) config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"http/1.1"},
		SessionTicketsDisabled: true,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.certificate(time.Now()) },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.certificate(time.Now()) },
	}
}
