package sim

import "time"

// queue is a heap of the events to come, the next one first. container/heap would
// put every event into an interface, and what is moved about in here holds no
// pointers, so that the collector of garbage has nothing to do with it.
type queue struct {
	heap   []due
	events []event
	free   []int // of events
	next   due   // that pop has returned
	number uint64
}

// due is when an event happens; of two at the same time, the one that was pushed first.
type due struct {
	at     time.Duration
	number uint64
	event  int
}

func (d due) before(o due) bool { return d.at < o.at || d.at == o.at && d.number < o.number }

func (q *queue) push(at time.Duration, e event) {
	q.number++
	i := len(q.events)
	if n := len(q.free); n > 0 {
		i, q.free = q.free[n-1], q.free[:n-1]
		q.events[i] = e
	} else {
		q.events = append(q.events, e)
	}
	q.add(due{at, q.number, i})
}

// pop returns the next event, which is to be done or to happen again.
func (q *queue) pop() (time.Duration, *event) {
	q.next = q.take()
	return q.next.at, &q.events[q.next.event]
}

// done forgets the event that pop has returned.
func (q *queue) done() {
	q.events[q.next.event] = event{}
	q.free = append(q.free, q.next.event)
}

// again has it happen later, in its place among others of that time.
func (q *queue) again(at time.Duration) { q.add(due{at, q.next.number, q.next.event}) }

func (q *queue) add(d due) {
	q.heap = append(q.heap, d)
	h, i := q.heap, len(q.heap)-1
	for i > 0 {
		up := (i - 1) / 2
		if !d.before(h[up]) {
			break
		}
		h[i], i = h[up], up
	}
	h[i] = d
}

func (q *queue) take() due {
	h := q.heap
	n := len(h) - 1
	next, last := h[0], h[n]
	q.heap = h[:n]
	if n == 0 {
		return next
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if right := down + 1; right < n && h[right].before(h[down]) {
			down = right
		}
		if !h[down].before(last) {
			break
		}
		h[i], i = h[down], down
	}
	h[i] = last
	return next
}
