package guard

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"repmgr/internal/host"
)

// spoken is what daemon and guard of protocol 1 said to each other: requests and answers in
// turn. The file stays as it is; a later protocol gets one of its own.
func spoken(t *testing.T, directory string, deadline time.Duration) (requests, answers []string) {
	t.Helper()
	text, err := os.ReadFile("testdata/protocol-1.txt")
	check(t, err)
	for line := range strings.Lines(strings.NewReplacer("DIRECTORY", directory, "DEADLINE", fmt.Sprint(int64(deadline))).Replace(string(text))) {
		if request, ok := strings.CutPrefix(line, "> "); ok {
			requests = append(requests, request)
		} else {
			answers = append(answers, strings.TrimPrefix(line, "< "))
		}
	}
	if len(requests) == 0 || len(requests) != len(answers) {
		t.Fatalf("%d requests, %d answers", len(requests), len(answers))
	}
	return requests, answers
}

// A guard that an older daemon has started is taken over: it is spoken to as that one did,
// and its answers are understood, which do not tell of a protocol.
func TestGuardOfAnOlderDaemon(t *testing.T) {
	t.Parallel()
	state, data := tempDir(t), tempDir(t)
	deadline := host.BootTime() + time.Minute
	requests, answers := spoken(t, data, deadline)
	older, err := net.Listen("unix", filepath.Join(state, socketName))
	check(t, err)
	defer older.Close()
	var heard []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := older.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for _, answer := range answers {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			heard = append(heard, line)
			_, _ = io.WriteString(conn, answer)
		}
	}()
	ctx := t.Context()
	g, err := Ensure(ctx, Options{StateDir: state, DataDirectory: data})
	check(t, err)
	defer g.Close()
	if st := status(t, g); st.PID != 1234 || st.DataDirectory != data || st.Living != -1 || st.Protocol != 0 {
		t.Errorf("%+v", st)
	}
	check(t, g.Extend(ctx, deadline))
	check(t, g.TakeOver(ctx))
	if err := g.End(ctx); err == nil || !strings.Contains(err.Error(), "a deadline runs") {
		t.Errorf("end: %v", err)
	}
	check(t, g.StandDown(ctx))
	<-done
	if !slices.Equal(heard, requests) {
		t.Errorf("an older guard hears\n%q\nand not\n%q", heard, requests)
	}
}

// A daemon that is put back to an older version goes on with the guard of the newer one.
// What a newer daemon asks for and this guard does not know is refused, and changes nothing.
func TestDaemonOfAnotherVersion(t *testing.T) {
	t.Parallel()
	state, data := tempDir(t), tempDir(t)
	ensure(t, logged(t, options(state, data, "")))
	deadline := host.BootTime() + time.Minute
	requests, answers := spoken(t, data, deadline)
	conn, err := net.Dial("unix", filepath.Join(state, socketName))
	check(t, err)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	in := bufio.NewReader(conn)
	say := func(request string) answer {
		t.Helper()
		_, err := io.WriteString(conn, request)
		check(t, err)
		text, err := in.ReadBytes('\n')
		check(t, err)
		var a answer
		check(t, json.Unmarshal(text, &a))
		return a
	}
	for i, request := range requests {
		got := say(request)
		var want answer
		check(t, json.Unmarshal([]byte(answers[i]), &want))
		want.Status.PID, want.Status.Living, want.Status.Protocol = got.Status.PID, got.Status.Living, Protocol
		if (got.Error != "") != (want.Error != "") || got.Fired != want.Fired || got.Status != want.Status {
			t.Errorf("%sis answered with\n%+v, and was with\n%+v", request, got, want)
		}
	}
	if a := say(fmt.Sprintf(`{"verb":"extend","deadline_ns":%d}`+"\n", deadline)); a.Error != "" || a.Status.Protocol != Protocol {
		t.Fatalf("%+v", a)
	}
	for _, verb := range []string{"stand-down", "extend", "freeze"} {
		a := say(fmt.Sprintf(`{"verb":%q,"protocol":%d,"deadline_ns":%d}`+"\n", verb, Protocol+1, deadline+time.Minute))
		if !strings.Contains(a.Error, "a repmgrd of an older version has started it") || a.Status.Deadline != deadline {
			t.Errorf("%s of a newer protocol is answered with %+v", verb, a)
		}
	}
	if a := say(`{"verb":"stand-down","reason":"a field that came later, and may be missed"}` + "\n"); a.Error != "" || a.Status.Deadline != 0 {
		t.Errorf("%+v", a)
	}
}
