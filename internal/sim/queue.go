package sim

// queue is a heap of the events to come, the next one first. container/heap would
// put every event into an interface, and half the time of a run is events.
type queue []event

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.number < o.number
}

func (q *queue) push(e event) {
	*q = append(*q, e)
	h, i := *q, len(*q)-1
	for i > 0 {
		up := (i - 1) / 2
		if !e.before(&h[up]) {
			break
		}
		h[i], i = h[up], up
	}
	h[i] = e
}

func (q *queue) pop() event {
	h := *q
	next, last, n := h[0], h[len(h)-1], len(h)-1
	h[n] = event{}
	*q = h[:n]
	if n == 0 {
		return next
	}
	i := 0
	for {
		down := 2*i + 1
		if down >= n {
			break
		}
		if right := down + 1; right < n && h[right].before(&h[down]) {
			down = right
		}
		if !h[down].before(&last) {
			break
		}
		h[i], i = h[down], down
	}
	h[i] = last
	return next
}
