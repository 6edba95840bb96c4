package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"repmgr/internal/cluster"
)

// The lives of certificates.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	nodeLife      = 365 * 24 * time.Hour
)

// notBefore is where every certificate's validity begins. A young certificate
// is no danger, while a host whose clock was set back, or has lost its battery,
// must not be cut off from its peers; so validity begins long ago.
var notBefore = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)

// Authority is a cluster's own certificate authority. Who has its key is, or
// may make itself, any node of the cluster. Its texts are what
// repmgr.authority keeps.
type Authority struct {
	CertPEM []byte
	KeyPEM  []byte

	id   string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

// NewAuthority makes the authority of a new cluster.
func NewAuthority() (Authority, error) { return newAuthority(time.Now()) }

func newAuthority(now time.Time) (Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Authority{}, fmt.Errorf("make the authority's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "repmgr cluster authority", SerialNumber: serial.Text(16)},
		NotBefore:             notBefore,
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Authority{}, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Authority{}, fmt.Errorf("encode the authority's key: %w", err)
	}
	return ParseAuthority(
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// ParseAuthority reads an authority's two texts. It is an error if they are not
// a certificate authority of this kind, or if the key is not the certificate's.
func ParseAuthority(certPEM, keyPEM []byte) (Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return Authority{}, fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return Authority{}, errors.New("read the cluster's certificate authority: not an ECDSA authority")
	}
	sum := sha256.Sum256(pair.Leaf.Raw)
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return Authority{
		CertPEM: certPEM, KeyPEM: keyPEM,
		id: hex.EncodeToString(sum[:16]), cert: pair.Leaf, key: key, pool: pool,
	}, nil
}

// ClusterID names the authority, and so the cluster: the first 128 bits of its
// certificate's SHA-256 fingerprint, in hexadecimal. Empty for a zero Authority.
func (a Authority) ClusterID() string { return a.id }

// Issue makes a certificate that is valid for a year. With a node's number its
// holder is that node; with number zero it is a reader called name, who may ask
// for the health and the status and change nothing.
func (a Authority) Issue(name string, node cluster.NodeID) (tls.Certificate, error) {
	return a.issue(name, node, time.Now())
}

func (a Authority) issue(name string, node cluster.NodeID, now time.Time) (tls.Certificate, error) {
	if a.key == nil {
		return tls.Certificate{}, errors.New("issue a certificate: the cluster has no certificate authority")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return tls.Certificate{}, err
	}
	subject := pkix.Name{CommonName: fmt.Sprintf("repmgr node %d", node), OrganizationalUnit: []string{name}}
	if node == 0 {
		subject.CommonName = "repmgr reader"
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             notBefore,
		NotAfter:              now.Add(nodeLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{nodeURI(a.id, node)},
	}, a.cert, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign the certificate of node %d: %w", node, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read back the certificate of node %d: %w", node, err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("draw a certificate's serial number: %w", err)
	}
	return serial, nil
}
