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
	{1, HoldWhole, 65, ""},
	{2, CountedFromAnswer, 65, ""},
	{3, RetryResets, 65, ""},
	{4, ReleasedRevived, 31, ""},
	{5, ExpireBlind, 79, ""},
	{6, LeadsEarly, 0, "a leader counts every time from its own election, and the record judges what it proposes"},
	{8, GrantIsLease, 270, ""},
	{9, ClaimTwice, 776, ""},
	{10, PromoteUnguarded, 21, ""},
	{12, WallClock, 42, ""},
	{13, PostmasterOnly, 76, ""},
	{14, ChildrenFirst, 333, ""},
	{15, ReleaseUnswept, 8, ""},
	{16, ScanOnce, 390, ""},
	{17, GuardFireOnce, 873, ""},
	{18, SealLeaky, 22, ""},
	{19, SealForgotten, 431, ""},
	{20, BidUnsealed, 133, ""},
	{21, BidReplayed, 10, ""},
	{22, BidReceived, 6, ""},
	{23, TermIgnored, 0, "a bid of an older term that has not diverged ends where the newer one left it"},
	{24, OldVacancy, 130, ""},
	{25, BidOverwritten, 44, ""},
	{26, DivergedCounts, 1875, ""},
	{27, OneBidLess, 200, ""},
	{28, SetUnannounced, 34, ""},
	{29, NoBarrier, 294, ""},
	{30, SendersUnproven, 0, "the barrier: who has what was written after the signal is served by a walsender that has read the setting, and who has it has all before"},
	{31, NewestOnly, 200, ""},
	{32, FirstSetEmpty, 1, ""},
	{33, NamesUnbound, 0, "who acknowledges what it does not have has diverged, and its bid is not counted"},
	{34, TimelineChosen, 10, ""},
	{35, RejoinBlind, 8, ""},
	{36, RewindSkipped, 0, "a timeline's number is granted once: where it is equal, so is the history"},
	{37, TornStarted, 12, ""},
	{38, UnsealOnWord, 11, ""},
	{39, PromotionLeft, 78, ""},
	{40, VoteForgotten, 4, ""},
	{41, SentUnsaved, 339, ""},
	{42, SameRaftID, 13, ""},
	{45, UnpausedHeld, 586, ""},
	{47, NeverArmed, 2, ""},
	{49, CancelCounted, 94, ""},
	{51, OwnDiskRenews, 122, ""},
	{52, SilentGrowth, 180, ""},
	{53, NoBackoff, 6, ""},
	{54, LastHolderIgnored, 78, ""},
	{0, TakenUnarmed, 0, ""},
	{0, DroppedAtOnce, 252, ""},
	{0, UnboundCounts, 732, ""},

	{0, Muted("lease-ran-out"), 0, ""},
	{0, Muted("guard-is-gone"), 0, ""},
	{0, Muted("arm-stopped"), 0, ""},
	{0, Muted("give-up"), 0, ""},
	{0, Muted("start-read-only"), 0, ""},
	{0, Muted("record-promotion"), 2, ""},
	{0, Muted("promotion-failed"), 11, ""},
	{0, Muted("first-set"), 16, ""},
	{0, Muted("promote-granted"), 2, ""},
	{0, Muted("regrant"), 2, ""},
	{0, Muted("wrong-timeline"), 0, ""},
	{0, Muted("disarm-paused"), 0, ""},
	{0, Muted("arm"), 2, ""},
	{0, Muted("claim"), 5, ""},
	{0, Muted("seal"), 8, ""},
	{0, Muted("place-bid"), 8, ""},
	{0, Muted("decline"), 0, ""},
	{0, Muted("start-to-bid"), 0, ""},
	{0, Muted("rejoin"), 5, ""},
	{0, Muted("measure"), 9, ""},
	{0, Muted("follow-holder"), 3, ""},
	{0, Muted("expire"), 65, ""},
	{0, Muted("void"), 94, ""},
	{0, Muted("close"), 8, ""},
	{0, Muted("change-member"), 12, ""},
	{0, Muted("describe-member"), 0, ""},
	{0, Muted("hand-over-lead"), 0, ""},
	{0, Muted("sync-restore"), 0, ""},
	{0, Muted("sync-announce"), 128, ""},
	{0, Muted("sync-write"), 128, ""},
	{0, Muted("sync-drop"), 0, ""},
	{0, Muted("sync-prove"), 593, ""},
}

// parts are the mistakes that were planted together: the seed notices both, and neither alone.
var parts = map[Defect][]Defect{
	DroppedAtOnce: {NoBarrier, SendersUnproven},
	UnboundCounts: {NamesUnbound, DivergedCounts},
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
			for _, less := range append(parts[d.defect], "") {
				if r := run(t, Options{Seed: d.seed, Defect: less}); r.Violation != "" {
					t.Errorf("seed %d with %q instead: %s", d.seed, less, r.Violation)
				}
			}
		})
	}
}
