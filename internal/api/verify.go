package api

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"repmgr/internal/cluster"
)

// holder is whom a certificate names: a node, or a reader if Node is zero.
type holder struct {
	Cluster string
	Node    cluster.NodeID
}

// String is the holder in a sentence.
func (h holder) String() string {
	if h.Node == 0 {
		return "a reader"
	}
	return fmt.Sprintf("node %d", h.Node)
}

// refusal says in words why a certificate was not accepted.
type refusal struct {
	what string
	kind error
}

func (r *refusal) Error() string { return r.what }
func (r *refusal) Unwrap() error { return r.kind }

// nodeURI is the name that a certificate carries: repmgr://<cluster id>/node/3,
// or repmgr://<cluster id>/reader.
func nodeURI(clusterID string, node cluster.NodeID) *url.URL {
	path := "/reader"
	if node != 0 {
		path = "/node/" + strconv.Itoa(int(node))
	}
	return &url.URL{Scheme: "repmgr", Host: clusterID, Path: path}
}

// holderOf reads the one name of a certificate. It does not check the signature.
func holderOf(cert *x509.Certificate) (holder, bool) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "repmgr" {
		return holder{}, false
	}
	u := cert.URIs[0]
	if u.Path == "/reader" {
		return holder{Cluster: u.Host}, true
	}
	number, ok := strings.CutPrefix(u.Path, "/node/")
	id, err := strconv.Atoi(number)
	if !ok || err != nil || id <= 0 || strconv.Itoa(id) != number {
		return holder{}, false
	}
	return holder{Cluster: u.Host, Node: cluster.NodeID(id)}, true
}

// verify judges the other side's certificate: signed by this authority, and naming
// someone of this cluster. Its time is Identity's to judge. The authority's own does not
// count: its end would cut every node off from every other at one moment, and end
// all leases (safety notes, B30). Who has its key may go on issuing.
func (a Authority) verify(s tls.ConnectionState) (holder, error) {
	if len(s.PeerCertificates) == 0 {
		return holder{}, &refusal{what: "it presented no certificate", kind: ErrOtherCluster}
	}
	cert := s.PeerCertificates[0]
	h, named := holderOf(cert)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: a.pool, CurrentTime: notBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	switch {
	case err == nil && named && h.Cluster == a.id:
		return h, nil
	case err == nil:
		return holder{}, &refusal{what: "its certificate names nobody of this cluster", kind: ErrOtherCluster}
	case named && h.Cluster != a.id:
		return holder{}, &refusal{what: fmt.Sprintf("its certificate is of another cluster (%.32s, while this one is %s)",
			h.Cluster, a.id), kind: ErrOtherCluster}
	default:
		return holder{}, &refusal{what: "its certificate is not signed by this cluster's authority", kind: ErrOtherCluster}
	}
}
