package api

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"
	"time"
)

func TestAuthorityKeepsItsNameInText(t *testing.T) {
	t.Parallel()
	a := authority(t)
	b, err := ParseAuthority(a.CertPEM, a.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if a.ClusterID() != b.ClusterID() || len(a.ClusterID()) != 32 {
		t.Errorf("%s became %s", a.ClusterID(), b.ClusterID())
	}
	if a.ClusterID() == authority(t).ClusterID() {
		t.Error("two authorities have one name")
	}
	// What one issues is good for the other.
	three := serve(t, a, 3)
	if _, err := client(t, three.target, identity(t, b, 1).ClientTLS()).Exchange(within(t), sampleReport(1)); err != nil {
		t.Error(err)
	}
}

func TestAuthorityMustBeWhole(t *testing.T) {
	t.Parallel()
	a, b := authority(t), authority(t)
	leaf, err := a.Issue("node", 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		cert, key []byte
	}{
		{"nothing", nil, nil},
		{"garbage", []byte("garbage"), a.KeyPEM},
		{"no key", a.CertPEM, nil},
		{"another's key", a.CertPEM, b.KeyPEM},
		{"swapped", a.KeyPEM, a.CertPEM},
		{"half", a.CertPEM[:len(a.CertPEM)/2], a.KeyPEM},
		{"a node's certificate", pemOf(leaf), keyPEMOf(t, leaf)},
	} {
		if _, err := ParseAuthority(c.cert, c.key); err == nil {
			t.Errorf("%s: taken as an authority", c.name)
		}
	}
	if _, err := (Authority{}).Issue("node", 1); err == nil {
		t.Error("no authority issued a certificate")
	}
}

func TestCertificateSaysWhoseItIs(t *testing.T) {
	t.Parallel()
	a := authority(t)
	c, err := a.Issue("alpha", 3)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.Leaf.Subject.CommonName, "repmgr node 3"; got != want {
		t.Errorf("common name %q, want %q", got, want)
	}
	if got, want := c.Leaf.URIs[0].String(), "repmgr://"+a.ClusterID()+"/node/3"; got != want {
		t.Errorf("name %q, want %q", got, want)
	}
	if left := time.Until(c.Leaf.NotAfter); left < nodeLife-time.Hour || left > nodeLife {
		t.Errorf("valid for %s", left)
	}
}

func TestNamesInCertificates(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"repmgr://abc/node/3":   "node 3",
		"repmgr://abc/reader":   "a reader",
		"repmgr://abc/node/0":   "",
		"repmgr://abc/node/-1":  "",
		"repmgr://abc/node/+3":  "",
		"repmgr://abc/node/03":  "",
		"repmgr://abc/node/":    "",
		"repmgr://abc/node/3/4": "",
		"repmgr://abc/":         "",
		"https://abc/node/3":    "",
	} {
		got := ""
		if h, ok := holderOf(&x509.Certificate{URIs: []*url.URL{mustURL(t, uri)}}); ok {
			got = h.String()
		}
		if got != want {
			t.Errorf("%s is %q, want %q", uri, got, want)
		}
	}
}

// TestAuthorityEndsNobody: certificates that are renewed count also after the
// authority's own time, which would end all at one moment (safety notes, B30).
func TestAuthorityEndsNobody(t *testing.T) {
	t.Parallel()
	a, err := newAuthority(time.Now().Add(-authorityLife - time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Issue("node", 3)
	if err != nil {
		t.Fatal(err)
	}
	s := tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Leaf}}
	if h, err := a.verify(s); err != nil || h.Node != 3 {
		t.Errorf("%v, %v", h, err)
	}
	three := serve(t, a, 3)
	if _, err := client(t, three.target, identity(t, a, 1).ClientTLS()).Exchange(within(t), sampleReport(1)); err != nil {
		t.Error(err)
	}
}
