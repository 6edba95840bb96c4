package api

import (
	"context"
	"net/http"
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

// Reach is what the daemon's node reaches; with others also what the nodes reach
// whose daemons it can ask.
func (c *Client) Reach(ctx context.Context, others bool) ([]Outlook, error) {
	path := PathReach
	if others {
		path += "?others=true"
	}
	var answer Outlooks
	err := c.call(ctx, http.MethodGet, path, nil, &answer)
	return answer.Outlooks, err
}

// reach changes nothing: it is open to who may read the status.
func (s *Server) reach(w http.ResponseWriter, r *http.Request) {
	outlooks, err := s.backend.Reach(r.Context(), r.URL.Query().Get("others") == "true")
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fault.Wrap(err, fault.Internal, "what the node reaches could not be found out"))
		return
	}
	answer(w, http.StatusOK, Outlooks{Outlooks: outlooks})
}
