package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"repmgr/internal/lab"
)

// watchEvery is how often the logs and the client are looked at.
const watchEvery = 20 * time.Millisecond

// watcher shows what the daemons' logs and the client say while something
// happens, each line with the time since it began.
type watcher struct {
	page    *page
	lab     *lab.Lab
	client  *lab.Client
	began   time.Time
	read    map[int]int64 // how much of each node's log was shown
	silence int           // full seconds without a write that were told
	serving int           // the node that the client was told to write on
	cancel  context.CancelFunc
	done    chan struct{}
}

// watch begins now; the caller calls stop in the end.
func watch(p *page, l *lab.Lab, c *lab.Client) *watcher {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{page: p, lab: l, client: c, began: time.Now(), read: map[int]int64{}, cancel: cancel, done: make(chan struct{})}
	for _, n := range l.Nodes {
		if info, err := os.Stat(n.DaemonLog()); err == nil {
			w.read[n.ID] = info.Size()
		}
	}
	last, _ := c.Last()
	w.serving = last.Node
	go w.run(ctx)
	return w
}

// run is the watcher's goroutine; it ends with ctx.
func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		w.look()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	w.look()
}

func (w *watcher) stop() {
	w.cancel()
	<-w.done
}

func (w *watcher) look() {
	for _, n := range w.lab.Nodes {
		for _, line := range w.news(n) {
			w.tell(n.Name, w.colourOf(line), withoutTime(line))
		}
	}
	w.lookAtClient()
}

// lookAtClient tells when the client is served again, and each full second without a write.
func (w *watcher) lookAtClient() {
	last, _ := w.client.Last()
	if last.Node != w.serving {
		w.serving, w.silence = last.Node, 0
		w.tell("client", green, fmt.Sprintf("writes again, on node%d; the gap was %d ms", last.Node, w.client.Gap().Milliseconds()))
		return
	}
	if seconds := int(time.Since(last.At) / time.Second); seconds > w.silence {
		w.silence = seconds
		w.tell("client", yellow, fmt.Sprintf("no write was accepted for %d s", seconds))
	}
}

func (w *watcher) tell(who, colour, what string) {
	stamp := fmt.Sprintf("%+7.2f s  %-7s ", time.Since(w.began).Seconds(), who)
	w.page.line(w.page.paint(faint, stamp) + w.page.paint(colour, what))
}

// news are the whole lines that a daemon has written since the last look.
func (w *watcher) news(n *lab.Node) []string {
	f, err := os.Open(n.DaemonLog())
	if err != nil {
		return nil
	}
	defer f.Close()
	buffer := make([]byte, 64<<10)
	got, _ := f.ReadAt(buffer, w.read[n.ID])
	end := bytes.LastIndexByte(buffer[:got], '\n')
	if end < 0 {
		return nil
	}
	w.read[n.ID] += int64(end) + 1
	return strings.Split(string(buffer[:end]), "\n")
}

// withoutTime cuts the date off a log line: the reader sees the time since the fault.
func withoutTime(line string) string {
	if stamp, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(stamp, "[2") {
		return rest
	}
	return line
}

func (w *watcher) colourOf(line string) string {
	switch {
	case strings.Contains(line, "[ERROR]") || strings.Contains(line, "[ALERT]") || strings.Contains(line, "[CRIT"):
		return red
	case strings.Contains(line, "[WARNING]"):
		return yellow
	case strings.Contains(line, "[NOTICE]"):
		return bold
	}
	return "0"
}
