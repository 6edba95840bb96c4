package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"repmgr/internal/cluster"
	"repmgr/internal/fault"
	"repmgr/internal/registry"
)

// ReachBound is how long a connection to a node is tried for at most, whatever
// connect_timeout its conninfo has: who asked must not be kept waiting for longer.
const ReachBound = 4 * time.Second

// Sighting is whether one node was reached.
type Sighting struct {
	Node    cluster.NodeID `json:"node_id"`
	Reached bool           `json:"reached"`
	Error   string         `json:"error,omitempty"` // why not
}

// Outlook is what one node reaches: every registered node, itself included.
type Outlook struct {
	Node    cluster.NodeID `json:"node_id"`
	Reaches []Sighting     `json:"reaches"`
}

// Outlooks is the answer of PathReach: the daemon's own outlook first, then those
// of the others that it has asked.
type Outlooks struct {
	Outlooks []Outlook `json:"outlooks"`
}

// LookRound tries to reach every node at the same time, within ReachBound: its
// server by the recorded conninfo, and that of a witness without PostgreSQL by its
// daemon, as alive says.
func LookRound(ctx context.Context, nodes []cluster.Node, alive func(context.Context, cluster.NodeID) error) []Sighting {
	ctx, cancel := context.WithTimeout(ctx, ReachBound)
	defer cancel()
	seen := make([]Sighting, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			err := reach(ctx, n, alive)
			seen[i] = Sighting{Node: n.ID, Reached: err == nil}
			if err != nil {
				seen[i].Error = err.Error()
			}
		})
	}
	all.Wait()
	return seen
}

func reach(ctx context.Context, n cluster.Node, alive func(context.Context, cluster.NodeID) error) error {
	if n.WithoutServer() {
		return alive(ctx, n.ID)
	}
	c, err := registry.Connect(ctx, n)
	registry.Close(c)
	return err
}

// Relay says whom else a daemon shall ask what they reach: the zero value nobody.
type Relay struct {
	All  bool             // everybody
	Of   []cluster.NodeID // else these
	Then []cluster.NodeID // whom those who are asked shall ask in turn
}

// To reports whether a node is to be asked.
func (r Relay) To(id cluster.NodeID) bool { return r.All || slices.Contains(r.Of, id) }

// Reach is what the daemon's node reaches; with a relay also what others reach whose daemons
// it can ask.
func (c *Client) Reach(ctx context.Context, relay Relay) ([]Outlook, error) {
	query := url.Values{}
	if relay.All || len(relay.Of) > 0 {
		query.Set("others", "true") // all that an earlier release knows: it asks everybody
	}
	if !relay.All {
		addNodes(query, "of", relay.Of)
	}
	addNodes(query, "then", relay.Then)
	path := PathReach
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var answer Outlooks
	err := c.call(ctx, http.MethodGet, path, nil, &answer)
	return answer.Outlooks, err
}

func addNodes(query url.Values, key string, ids []cluster.NodeID) {
	for _, id := range ids {
		query.Add(key, strconv.Itoa(int(id)))
	}
}

func nodesOf(query url.Values, key string) (ids []cluster.NodeID, err error) {
	for _, text := range query[key] {
		id, err := strconv.Atoi(text)
		if err != nil || id <= 0 {
			return nil, fault.New(fault.BadConfig, "expected a node's number as %q, found %q", key, text)
		}
		ids = append(ids, cluster.NodeID(id))
	}
	return ids, nil
}

// reach changes nothing: it is open to who may read the status.
func (s *Server) reach(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var relay Relay
	if query.Get("others") == "true" {
		var errs [2]error
		relay.Of, errs[0] = nodesOf(query, "of")
		relay.Then, errs[1] = nodesOf(query, "then")
		if err := errors.Join(errs[:]...); err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		relay.All = len(relay.Of) == 0
	}
	outlooks, err := s.backend.Reach(r.Context(), relay)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fault.Wrap(err, fault.Internal, "what the node reaches could not be found out"))
		return
	}
	answer(w, http.StatusOK, Outlooks{Outlooks: outlooks})
}
