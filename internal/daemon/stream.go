package daemon

import (
	"context"
	"time"

	"repmgr/internal/api"
	"repmgr/internal/cluster"
	"repmgr/internal/quorum"
)

// Bounds of the frames' way to a peer.
const (
	framesBound  = 256                    // more than that are lost: raft sends again
	redialEvery  = 100 * time.Millisecond // after a stream ended
	streamWithin = time.Second            // for a stream to be opened
)

// sendFrame puts a frame on its way to a node. It never waits, and what cannot
// be sent is lost, as on any network.
func (p *peers) sendFrame(to cluster.NodeID, f quorum.Frame) {
	p.mu.Lock()
	l := p.links[to]
	p.mu.Unlock()
	if l == nil {
		return
	}
	text, err := f.Encode()
	if err != nil {
		p.d.log.Warn("a frame of the group cannot be written: " + err.Error())
		return
	}
	select {
	case l.frames <- text:
	default:
	}
}

// keepStream carries frames to one peer until ctx ends, over a stream that is
// opened when there is something to send.
func (p *peers) keepStream(ctx context.Context, l *link) {
	var stream *api.Stream
	defer func() {
		if stream != nil {
			stream.Close()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case frame := <-l.frames:
			if stream == nil {
				stream = p.openStream(ctx, l)
			}
			if stream == nil {
				continue
			}
			if err := stream.Send(frame); err != nil {
				stream.Close()
				stream = nil
			}
		}
	}
}

// openStream opens a stream, or waits a moment and forgets what has gathered
// meanwhile: it is old news.
func (p *peers) openStream(ctx context.Context, l *link) *api.Stream {
	limit, cancel := context.WithTimeout(ctx, streamWithin)
	defer cancel()
	stream, err := l.client.OpenStream(limit, p.d.incarnation)
	if err == nil {
		return stream
	}
	wait(ctx, redialEvery)
	for len(l.frames) > 0 {
		<-l.frames
	}
	return nil
}

// Stream takes in the frames that a node sends, until it ends. Of a daemon that does
// not speak for its node they are lost, as on any network.
func (b backend) Stream(from cluster.NodeID, life uint64, receive func() ([]byte, error)) {
	b.d.voices.enter(from, life)
	defer b.d.voices.leave(from, life)
	for {
		text, err := receive()
		if err != nil {
			return
		}
		f, err := quorum.DecodeFrame(text)
		if err != nil {
			b.d.log.Warn("group: a frame that cannot be read", "detail", err.Error())
			return
		}
		if b.d.voices.admits(from, life, f.From) {
			b.d.quorum.receive(from, f, len(text))
		}
	}
}
