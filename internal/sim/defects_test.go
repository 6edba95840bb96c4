package sim

import (
	"fmt"
	"testing"
)

// planted are the mistakes by their numbers in the safety notes' section D, with a
// seed that notices each, or why none does.
var planted = []struct {
	number int // zero: it is none of the list
	defect Defect
	seed   uint64
	spare  string // what makes up for it
}{
	{1, HoldWhole, 8, ""},
	{2, CountedFromAnswer, 28, ""},
	{3, RetryResets, 28, ""},
	{4, ReleasedRevived, 116, ""},
	{5, ExpireBlind, 231, ""},
	{6, LeadsEarly, 0, "a leader counts every time from its own election, and the record judges what it proposes"},
	{8, GrantIsLease, 523, ""},
	{9, ClaimTwice, 262, ""},
	{10, PromoteUnguarded, 21, ""},
	{12, WallClock, 4, ""},
	{13, PostmasterOnly, 60, ""},
	{14, ChildrenFirst, 149, ""},
	{15, ReleaseUnswept, 8, ""},
	{16, ScanOnce, 83, ""},
	{17, GuardFireOnce, 638, ""},
	{18, SealLeaky, 22, ""},
	{19, SealForgotten, 144, ""},
	{20, BidUnsealed, 0, ""},
	{21, BidReplayed, 25, ""},
	{22, BidReceived, 6, ""},
	{23, TermIgnored, 0, "a bid of an older term that has not diverged ends where the newer one left it"},
	{24, OldVacancy, 335, ""},
	{25, BidOverwritten, 17, ""},
	{26, DivergedCounts, 109, ""},
	{27, OneBidLess, 610, ""},
	{28, SetUnannounced, 36, ""},
	{29, NoBarrier, 0, ""},
	{30, SendersUnproven, 0, ""},
	{31, NewestOnly, 109, ""},
	{32, FirstSetEmpty, 1, ""},
	{33, NamesUnbound, 0, ""},
	{34, TimelineChosen, 6, ""},
	{35, RejoinBlind, 8, ""},
	{36, RewindSkipped, 0, "a timeline's number is granted once: where it is equal, so is the history"},
	{37, TornStarted, 8, ""},
	{38, UnsealOnWord, 48, ""},
	{39, PromotionLeft, 241, ""},
	{40, VoteForgotten, 4, ""},
	{41, SentUnsaved, 41, ""},
	{42, SameRaftID, 36, ""},
	{45, UnpausedHeld, 114, ""},
	{47, NeverArmed, 2, ""},
	{49, CancelCounted, 6, ""},
	{51, OwnDiskRenews, 122, ""},
	{52, SilentGrowth, 229, ""},
	{53, NoBackoff, 14, ""},
	{54, LastHolderIgnored, 110, ""},
	{0, TakenUnarmed, 0, ""},

	{0, Muted("lease-ran-out"), 0, ""},
	{0, Muted("guard-is-gone"), 0, ""},
	{0, Muted("arm-stopped"), 0, ""},
	{0, Muted("give-up"), 0, ""},
	{0, Muted("start-read-only"), 0, ""},
	{0, Muted("record-promotion"), 2, ""},
	{0, Muted("promotion-failed"), 23, ""},
	{0, Muted("first-set"), 16, ""},
	{0, Muted("promote-granted"), 2, ""},
	{0, Muted("regrant"), 2, ""},
	{0, Muted("wrong-timeline"), 0, ""},
	{0, Muted("disarm-paused"), 0, ""},
	{0, Muted("arm"), 2, ""},
	{0, Muted("claim"), 4, ""},
	{0, Muted("seal"), 8, ""},
	{0, Muted("place-bid"), 8, ""},
	{0, Muted("decline"), 0, ""},
	{0, Muted("start-to-bid"), 0, ""},
	{0, Muted("rejoin"), 7, ""},
	{0, Muted("measure"), 4, ""},
	{0, Muted("follow-holder"), 4, ""},
	{0, Muted("expire"), 39, ""},
	{0, Muted("void"), 473, ""},
	{0, Muted("close"), 8, ""},
	{0, Muted("change-member"), 3, ""},
	{0, Muted("describe-member"), 444, ""},
	{0, Muted("hand-over-lead"), 0, ""},
	{0, Muted("sync-restore"), 0, ""},
	{0, Muted("sync-announce"), 36, ""},
	{0, Muted("sync-write"), 128, ""},
	{0, Muted("sync-drop"), 0, ""},
	{0, Muted("sync-prove"), 101, ""},
}

// TestDefects plants every mistake that a seed is known to notice, and runs that
// seed with it and without. make simulate ARGS='--defects 300' looks for other seeds.
func TestDefects(t *testing.T) {
	for _, d := range planted {
		if d.seed == 0 {
			continue
		}
		t.Run(fmt.Sprintf("%d", d.number), func(t *testing.T) {
			r := run(t, Options{Seed: d.seed, Defect: d.defect})
			if t.Logf("%s: seed %d: %s", d.defect, d.seed, r.Violation); r.Violation == "" {
				t.Errorf("seed %d does not notice it", d.seed)
			}
			if sound := run(t, Options{Seed: d.seed}); sound.Violation != "" {
				t.Errorf("seed %d without it: %s", d.seed, sound.Violation)
			}
		})
	}
}
