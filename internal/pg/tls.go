package pg

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
)

var tlsVersions = map[string]uint16{
	"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13,
}

// applyTLS honours the TLS parameters that pgx does not know: the range of
// protocol versions and the lists of revoked certificates.
func applyTLS(config *pgx.ConnConfig, own map[string]string) error {
	revoked, err := revocations(own["sslcrl"], own["sslcrldir"])
	if err != nil {
		return err
	}
	apply := func(t *tls.Config) error {
		if t == nil {
			return nil
		}
		for key, field := range map[string]*uint16{
			"ssl_min_protocol_version": &t.MinVersion, "ssl_max_protocol_version": &t.MaxVersion,
		} {
			if own[key] == "" {
				continue
			}
			version, ok := tlsVersions[own[key]]
			if !ok {
				return fmt.Errorf("%s: %q is none of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3", key, own[key])
			}
			*field = version
		}
		if len(revoked) > 0 {
			t.VerifyConnection = func(s tls.ConnectionState) error { return checkRevoked(s.PeerCertificates, revoked) }
		}
		return nil
	}
	if err := apply(config.TLSConfig); err != nil {
		return err
	}
	for _, f := range config.Fallbacks {
		if err := apply(f.TLSConfig); err != nil {
			return err
		}
	}
	return nil
}

// revocations reads certificate revocation lists from a file or a directory.
func revocations(file, dir string) ([]*x509.RevocationList, error) {
	var files []string
	if file != "" {
		files = append(files, file)
	}
	if dir != "" {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("sslcrldir: %w", err)
		}
		for _, e := range entries {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	var out []*x509.RevocationList
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("sslcrl: %w", err)
		}
		lists, err := parseRevocations(data)
		if err != nil {
			return nil, fmt.Errorf("sslcrl %s: %w", f, err)
		}
		out = append(out, lists...)
	}
	return out, nil
}

func checkRevoked(chain []*x509.Certificate, lists []*x509.RevocationList) error {
	for _, cert := range chain {
		for _, list := range lists {
			if string(list.RawIssuer) != string(cert.RawIssuer) {
				continue
			}
			for _, entry := range list.RevokedCertificateEntries {
				if entry.SerialNumber.Cmp(cert.SerialNumber) == 0 {
					return errors.New("the server's certificate is revoked")
				}
			}
		}
	}
	return nil
}

// parseRevocations reads every list of a PEM file.
func parseRevocations(data []byte) ([]*x509.RevocationList, error) {
	var out []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "X509 CRL" {
			continue
		}
		list, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, list)
	}
	return out, nil
}
