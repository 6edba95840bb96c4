package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"time"
)

// The roles of a lab besides the superuser postgres, who is let in through the
// socket only.
const (
	repmgrRole = "repmgr"
	appRole    = "app" // the client's
)

// secrets are what the roles prove themselves with.
type secrets struct {
	passwords   map[string]string // by role; empty without SCRAM
	environment map[string]string // how programs find them
	folder      string            // certificates and keys; empty without TLS
}

func (l *Lab) makeSecrets() error {
	switch l.options.Auth {
	case SCRAM:
		return l.makePasswords()
	case TLS:
		return l.makeCertificates()
	}
	return nil
}

// makePasswords writes a password file, so that no conninfo and no command line
// has a password in it.
func (l *Lab) makePasswords() error {
	l.secrets.passwords = map[string]string{}
	var lines strings.Builder
	for _, role := range []string{repmgrRole, appRole} {
		b := make([]byte, 12)
		rand.Read(b)
		// A colon and a backslash, because a password file has to escape them, and a quote and a blank for conninfo's sake.
		password := `a:b\c 'd"` + hex.EncodeToString(b)
		l.secrets.passwords[role] = password
		fmt.Fprintf(&lines, "*:*:*:%s:%s\n", role, strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(password))
	}
	path := filepath.Join(l.home(), ".pgpass")
	l.secrets.environment = map[string]string{"PGPASSFILE": path}
	return l.account.write(path, lines.String())
}

// Password is a role's, empty where the lab has none; for tests that look for it
// where it must not be.
func (l *Lab) Password(role string) string { return l.secrets.passwords[role] }

// makeCertificates makes an authority, a certificate for all servers and one for each role.
func (l *Lab) makeCertificates() error {
	l.secrets.folder = filepath.Join(l.Dir, "tls")
	if err := l.account.mkdir(l.secrets.folder); err != nil {
		return err
	}
	root, err := newAuthority()
	if err != nil {
		return err
	}
	if err := l.account.write(l.certificate("root"), root.pem); err != nil {
		return err
	}
	server := &x509.Certificate{Subject: pkix.Name{CommonName: "server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range l.Nodes {
		server.IPAddresses = append(server.IPAddresses, net.ParseIP(n.Host))
		// libpq before 15 looks for an address only among the names.
		server.DNSNames = append(server.DNSNames, n.Host)
	}
	if err := l.issue(root, "server", server); err != nil {
		return err
	}
	for _, role := range []string{repmgrRole, appRole} {
		usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if err := l.issue(root, role, &x509.Certificate{Subject: pkix.Name{CommonName: role}, ExtKeyUsage: usage}); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) certificate(name string) string { return filepath.Join(l.secrets.folder, name+".crt") }

func (l *Lab) key(name string) string { return filepath.Join(l.secrets.folder, name+".key") }

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority() (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("make a key: %w", err)
	}
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "lab"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	certify(c)
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		return authority{}, fmt.Errorf("make the lab's certificate authority: %w", err)
	}
	return authority{certificate: c, key: key, pem: encodePEM("CERTIFICATE", der)}, nil
}

// certify fills in what every certificate of a lab has; the hour before now
// allows for a clock that is set while the lab runs.
func certify(c *x509.Certificate) {
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
}

func (l *Lab) issue(root authority, name string, c *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	certify(c)
	c.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, c, root.certificate, &key.PublicKey, root.key)
	if err != nil {
		return fmt.Errorf("issue the certificate %s: %w", name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the key of %s: %w", name, err)
	}
	if err := l.account.write(l.certificate(name), encodePEM("CERTIFICATE", der)); err != nil {
		return err
	}
	return l.account.write(l.key(name), encodePEM("PRIVATE KEY", private))
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
