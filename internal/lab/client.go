package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// How the client behaves: impatient, so that what is measured is the cluster.
const (
	writeEvery     = 5 * time.Millisecond   // between two writes; the resolution of a gap
	writePatience  = 500 * time.Millisecond // for one write; then the connection is given up
	connectTimeout = 5 * time.Second        // for one try at one node; it keeps no other from being asked
	retryEvery     = 10 * time.Millisecond  // between two tries
)

// How often, in a lab that saves what it can and measures nothing: a session is a process.
const (
	writeSeldom = 25 * time.Millisecond
	retrySeldom = 100 * time.Millisecond
)

// Write is one row that the cluster acknowledged.
type Write struct {
	Value int64
	Node  int       // that acknowledged it
	At    time.Time // when the acknowledgement came
}

// Client writes numbered rows, one per transaction, to whichever node is the
// primary, and remembers every acknowledgement. A number is never tried twice:
// a write without an acknowledgement may have happened or not.
type Client struct {
	lab       *Lab
	nodes     []*Node // that it tries
	namespace string  // where it lives; empty: ours
	cancel    context.CancelFunc
	done      chan struct{}

	mu     sync.Mutex
	writes []Write
	mark   time.Time
	began  time.Time // the session of the last acknowledgement
	last   error     // of the last try that failed
}

// insideFrom is the first number that a client inside a node writes, so that two
// clients never write the same.
const insideFrom = int64(1) << 40

// NewClient makes the client's table and starts to write, from outside of every
// node. Close stops it.
func (l *Lab) NewClient(ctx context.Context) (*Client, error) {
	c := &Client{lab: l, namespace: l.clientNamespace(nil)}
	for _, n := range l.Nodes {
		if !n.Witness {
			c.nodes = append(c.nodes, n)
		}
	}
	return c, c.begin(ctx, 1, insideFrom)
}

// NewInsideClient is NewClient for a client that lives on a node's own side of
// its cable, and knows that node alone.
func (n *Node) NewInsideClient(ctx context.Context) (*Client, error) {
	c := &Client{lab: n.lab, nodes: []*Node{n}, namespace: n.namespace}
	return c, c.begin(ctx, insideFrom, 2*insideFrom)
}

// begin starts the writing with the first unused number of a range.
func (c *Client) begin(ctx context.Context, from, to int64) error {
	primary, err := c.lab.Primary(ctx)
	if err != nil {
		return err
	}
	err = primary.AppExec(ctx, `CREATE TABLE IF NOT EXISTS public.writes
		(value bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp()); GRANT ALL ON public.writes TO `+appRole)
	if err != nil {
		return fmt.Errorf("make the client's table: %w", err)
	}
	next, err := primary.AppNumbers(ctx, fmt.Sprintf(
		"SELECT coalesce(max(value) + 1, %d) FROM public.writes WHERE value >= %[1]d AND value < %d", from, to))
	if err != nil {
		return err
	}
	ctx, c.cancel = context.WithCancel(c.lab.ctx)
	c.done, c.mark = make(chan struct{}), time.Now()
	go c.write(ctx, next[0])
	return nil
}

// Close stops the writing.
func (c *Client) Close() {
	c.cancel()
	<-c.done
}

// write is the client's goroutine; it ends with ctx.
func (c *Client) write(ctx context.Context, value int64) {
	defer close(c.done)
	every := c.every(writeEvery, writeSeldom)
	for ctx.Err() == nil {
		node, conn, err := c.connect(ctx)
		if err != nil {
			return // ctx has ended
		}
		began := time.Now()
		for err == nil && ctx.Err() == nil {
			err = c.insert(ctx, conn, value)
			if err == nil {
				c.acknowledged(Write{Value: value, Node: node, At: time.Now()}, began)
				pause(ctx, every)
			}
			value++
		}
		c.failed(err)
		discard(conn)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// discard closes a connection without waiting for a host that may be gone.
func discard(conn *pgx.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = conn.Close(ctx)
}

func (c *Client) insert(ctx context.Context, conn *pgx.Conn, value int64) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	_, err := conn.Exec(ctx, "INSERT INTO public.writes (value) VALUES ($1)", value)
	return err
}

// connect asks every node again and again, each at its own pace, and takes the first
// that accepts writes. It fails only when ctx ends.
func (c *Client) connect(ctx context.Context) (int, *pgx.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		node *Node
		conn *pgx.Conn // nil: ctx has ended
	}
	answers := make(chan answer)
	for _, n := range c.nodes {
		go func() { answers <- answer{n, c.insist(ctx, n)} }()
	}
	var found answer
	for range c.nodes {
		switch a := <-answers; {
		case a.conn == nil:
		case found.conn == nil:
			found = a
			cancel() // the others need not be waited for
		default:
			discard(a.conn)
		}
	}
	if found.conn == nil {
		return 0, nil, ctx.Err()
	}
	return found.node.ID, found.conn, nil
}

// every is how often the client does something in this lab.
func (c *Client) every(often, seldom time.Duration) time.Duration {
	if c.lab.options.Unsynced {
		return seldom
	}
	return often
}

// insist tries a node until it accepts writes, or ctx ends.
func (c *Client) insist(ctx context.Context, n *Node) *pgx.Conn {
	for ctx.Err() == nil {
		try, cancel := context.WithTimeout(ctx, connectTimeout)
		conn, err := n.connectApp(try, c.namespace, nil)
		cancel()
		if err == nil {
			return conn
		}
		if ctx.Err() == nil {
			c.failed(fmt.Errorf("%s: %w", n.Name, err))
		}
		pause(ctx, c.every(retryEvery, retrySeldom))
	}
	return nil
}

// ConnectWriter asks all of these nodes at the same time, as AppConfig says, and
// takes the first that accepts writes. Configure, if it is not nil, may change how
// each is connected to.
func (l *Lab) ConnectWriter(ctx context.Context, from *Node, to []*Node, configure func(*pgx.ConnConfig)) (*Node, *pgx.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		node *Node
		conn *pgx.Conn
		err  error
	}
	answers := make(chan answer, len(to))
	for _, n := range to {
		go func() {
			conn, err := n.connectApp(ctx, l.clientNamespace(from), configure)
			answers <- answer{n, conn, err}
		}()
	}
	var found answer
	var errs []error
	for range to {
		switch a := <-answers; {
		case a.err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", a.node.Name, a.err))
		case found.conn == nil:
			found = a
			cancel() // the others need not be waited for
		default:
			discard(a.conn)
		}
	}
	if found.conn == nil {
		return nil, nil, errors.Join(errs...)
	}
	return found.node, found.conn, nil
}

// connectApp connects as the client does: over the network, from a namespace, for writing.
func (n *Node) connectApp(ctx context.Context, namespace string, configure func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config, err := n.lab.appConfig(namespace, []*Node{n}, " target_session_attrs=read-write")
	if err != nil {
		return nil, err
	}
	if configure != nil {
		configure(config)
	}
	return pgx.ConnectConfig(ctx, config)
}

// AppConfig is how a client reaches the first that will have it of some nodes'
// servers, over the network, as the role app: from a node's own side of its
// cable, or, where from is nil, from outside of every node. More are further
// parameters, as in a conninfo string.
func (l *Lab) AppConfig(from *Node, to []*Node, more string) (*pgx.ConnConfig, error) {
	return l.appConfig(l.clientNamespace(from), to, " "+more)
}

// clientNamespace is where a client lives: on a node's side of its cable, or
// outside of every node.
func (l *Lab) clientNamespace(from *Node) string {
	switch {
	case from != nil:
		return from.namespace
	case l.network != nil:
		return l.network.hub()
	}
	return ""
}

func (l *Lab) appConfig(namespace string, to []*Node, more string) (*pgx.ConnConfig, error) {
	var hosts, ports []string
	for _, n := range to {
		hosts, ports = append(hosts, n.Host), append(ports, fmt.Sprint(n.Port))
	}
	if l.options.Auth != TLS {
		more += " sslmode=disable" // else each connection is preceded by one that the server refuses
	}
	config, err := pgx.ParseConfig(l.conninfo(strings.Join(hosts, ","), strings.Join(ports, ","), appRole) + more + " connect_timeout=5")
	if err != nil {
		return nil, err
	}
	config.Password = l.secrets.passwords[appRole]
	if namespace != "" {
		config.DialFunc = pgconn.DialFunc(dialer(namespace))
	}
	return config, nil
}

func (c *Client) acknowledged(w Write, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes, c.began = append(c.writes, w), began
}

func (c *Client) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		c.last = err
	}
}

// Mark notes that a fault is about to be made: Gap and Recovered count from here.
func (c *Client) Mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = time.Now()
}

// MarkedAt is when Mark was called.
func (c *Client) MarkedAt() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mark
}

// Last is the newest acknowledged write, and the last failure.
func (c *Client) Last() (Write, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.writes) == 0 {
		return Write{}, c.last
	}
	return c.writes[len(c.writes)-1], c.last
}

// Acknowledged is how many rows were acknowledged so far.
func (c *Client) Acknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.writes)
}

// Writes are all acknowledged writes so far, oldest first.
func (c *Client) Writes() []Write {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.writes)
}

// Gap is the longest time between two acknowledgements that ended after the
// mark. A gap that has not ended yet counts up to now.
func (c *Client) Gap() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return longestGap(c.writes, c.mark, time.Now())
}

func longestGap(writes []Write, mark, now time.Time) time.Duration {
	var longest time.Duration
	previous := mark
	for _, w := range writes {
		if w.At.After(mark) {
			longest = max(longest, w.At.Sub(previous))
		}
		previous = w.At
	}
	return max(longest, now.Sub(previous))
}

// Recovered answers nil once another node than the one given has acknowledged a
// write after the mark; for Wait.
func (c *Client) Recovered(from *Node) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.writes); n > 0 && c.writes[n-1].Node != from.ID && c.writes[n-1].At.After(c.mark) {
		return nil
	}
	return fmt.Errorf("no node but %s has acknowledged a write; last failure: %w", from.Name, c.last)
}

// Resumed is Recovered where the node itself may come back: it counts in a
// session that was begun after the given time.
func (c *Client) Resumed(from *Node, after time.Time) error {
	err := c.Recovered(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.began.After(after) {
		return nil
	}
	return err
}

// Missing are the acknowledged rows that the present primary does not have. Rows
// written while it is asked do not matter.
func (c *Client) Missing(ctx context.Context) ([]Write, error) {
	writes := c.Writes()
	primary, err := c.lab.Primary(ctx)
	if err != nil {
		return nil, err
	}
	return primary.Missing(ctx, writes)
}

// Missing are those of acknowledged rows that the node does not have: where several
// call themselves primary, only the caller knows which counts.
func (n *Node) Missing(ctx context.Context, writes []Write) ([]Write, error) {
	values, err := n.AppNumbers(ctx, "SELECT value FROM public.writes")
	if err != nil {
		return nil, err
	}
	present := make(map[int64]bool, len(values))
	for _, v := range values {
		present[v] = true
	}
	return slices.DeleteFunc(slices.Clone(writes), func(w Write) bool { return present[w.Value] }), nil
}

// AppNumbers reads a column of numbers in the client's database, as the superuser.
func (n *Node) AppNumbers(ctx context.Context, query string) ([]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, sqlTimeout)
	defer cancel()
	conn, err := n.superuser(ctx, appRole)
	if err != nil {
		return nil, fmt.Errorf("read the client's rows on %s: %w", n.Name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read the client's rows on %s: %w", n.Name, err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("read the client's rows on %s: %w", n.Name, err)
	}
	return values, nil
}
