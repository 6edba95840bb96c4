package truth

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// player plays a line of a script, and says what is seen; empty: it is only done.
type player interface {
	play(node int, verb, object string) (string, error)
}

// play plays a script, and returns each line with what was seen.
func play(s script, p player) (seen []string, err error) {
	for line := range strings.Lines(strings.TrimSpace(s.lines)) {
		words := append(strings.Fields(line), "")
		node, err := strconv.Atoi(words[0])
		if err != nil {
			return nil, fmt.Errorf("%q begins with no node", line)
		}
		got, err := p.play(node, words[1], words[2])
		if err != nil {
			return seen, fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
		if got = strings.TrimSpace(line) + " -> " + got; strings.HasSuffix(got, "-> ") {
			got = strings.TrimSpace(line)
		}
		seen = append(seen, got)
	}
	return seen, nil
}

// seeds are how many times a script is played on the model: what it leaves to chance is
// to be seen in them.
const seeds = 200

// allowed are the courses that the model knows of a script.
func allowed(t *testing.T, s script) []string {
	t.Helper()
	courses := map[string]bool{}
	for seed := uint64(1); seed <= seeds; seed++ {
		seen, err := play(s, newModel(seed))
		if err != nil {
			t.Fatalf("the model, seed %d: %v", seed, err)
		}
		courses[strings.Join(seen, "\n")] = true
	}
	return slices.Sorted(maps.Keys(courses))
}

// TestModel plays the scripts on the model alone: it has one course of each but those in
// which PostgreSQL leaves something open.
func TestModel(t *testing.T) {
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			courses := allowed(t, s)
			if len(courses) > 1 != s.open {
				t.Errorf("%d courses, and the script is open: %v\n%s", len(courses), s.open, strings.Join(courses, "\n\n"))
			}
		})
	}
}

// TestModelIsTrue plays them on real servers: what they do is one of the courses of the model.
func TestModelIsTrue(t *testing.T) {
	r := newServers(t)
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			r.renew(t)
			seen, err := play(s, r)
			courses := allowed(t, s)
			if err != nil {
				t.Fatalf("%v, after\n%s", err, strings.Join(seen, "\n"))
			}
			if truth := strings.Join(seen, "\n"); !slices.Contains(courses, truth) {
				t.Errorf("the truth:\n%s\n\nthe model (%d courses), where it is another:\n%s", truth, len(courses), nearest(seen, courses))
			}
		})
	}
}

// nearest is the course that has the most in common with what was seen, where it differs.
func nearest(seen, courses []string) string {
	var best []string
	for i, c := range courses {
		var differ []string
		for n, line := range strings.Split(c, "\n") {
			if n >= len(seen) || line != seen[n] {
				differ = append(differ, line)
			}
		}
		if i == 0 || len(differ) < len(best) {
			best = differ
		}
	}
	return strings.Join(best, "\n")
}
