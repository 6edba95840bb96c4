package conf

import (
	"fmt"
	"strings"
)

// maxWord is the length beyond which a word is no misspelt name.
const maxWord = 100

// nearestFold is nearest where capital and small letters count as the same.
func nearestFold(word string, names []string) string {
	lower := make([]string, len(names))
	for i, name := range names {
		lower[i] = strings.ToLower(name)
	}
	meant := nearest(strings.ToLower(word), lower)
	for i := range lower {
		if lower[i] == meant {
			return names[i]
		}
	}
	return ""
}

// nearest is the name that was probably meant by word: the one that the fewest
// changes of a letter turn it into, if they are few enough, or nothing.
func nearest(word string, names []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, fewest := "", len(word)/3+2
	for _, name := range names {
		if n := distance(word, name); n < fewest {
			best, fewest = name, n
		}
	}
	return best
}

// didYouMean is the question to the reader, or nothing if there is no name.
func didYouMean(name string) string {
	if name == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", name)
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour that turn a into b (the optimal string alignment distance).
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now := make([]int, len(b)+1)
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last = last, now
	}
	return last[len(b)]
}
