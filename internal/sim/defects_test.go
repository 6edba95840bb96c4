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
	{1, HoldWhole, 61, ""},
	{2, CountedFromAnswer, 447, ""},
	{3, RetryResets, 1761, ""},
	{4, ReleasedRevived, 101, ""},
	{5, ExpireBlind, 314, ""},
	{6, LeadsEarly, 0, ""},
	{8, GrantIsLease, 1418, ""},
	{9, ClaimTwice, 130, ""},
	{10, PromoteUnguarded, 21, ""},
	{12, WallClock, 21, ""},
	{13, PostmasterOnly, 61, ""},
	{14, ChildrenFirst, 313, ""},
	{15, ReleaseUnswept, 4, ""},
	{16, ScanOnce, 90, ""},
	{17, GuardFireOnce, 480, ""},
	{18, SealLeaky, 263, ""},
	{19, SealForgotten, 96, ""},
	{20, BidUnsealed, 133, ""},
	{21, BidReplayed, 6, ""},
	{22, BidReceived, 1, ""},
	{23, TermIgnored, 111, ""},
	{24, OldVacancy, 106, ""},
	{25, BidOverwritten, 55, ""},
	{26, DivergedCounts, 7026, ""},
	{27, OneBidLess, 160, ""},
	{28, SetUnannounced, 11, ""},
	{29, NoBarrier, 734, ""},
	{30, SendersUnproven, 0, "the barrier: who has what was written after the signal is served by a walsender that has read the setting, and who has it has all before"},
	{31, NewestOnly, 177, ""},
	{32, FirstSetEmpty, 1, ""},
	{33, NamesUnbound, 0, "who acknowledges what it does not have has diverged, and its bid is not counted"},
	{34, TimelineChosen, 8, ""},
	{35, RejoinBlind, 4, ""},
	{36, RewindSkipped, 0, "a timeline's number is granted once: where it is equal, so is the history"},
	{37, TornStarted, 8, ""},
	{38, UnsealOnWord, 15, ""},
	{39, PromotionLeft, 241, ""},
	{40, VoteForgotten, 1, ""},
	{41, SentUnsaved, 90, ""},
	{42, SameRaftID, 4, ""},
	{45, UnpausedHeld, 87, ""},
	{47, NeverArmed, 2, ""},
	{49, CancelCounted, 17, ""},
	{51, OwnDiskRenews, 122, ""},
	{52, SilentGrowth, 560, ""},
	{53, NoBackoff, 8, ""},
	{54, LastHolderIgnored, 165, ""},
	{0, TakenUnarmed, 0, ""},
	{0, NobodyLeaves, 350, ""},
	{0, OvertakenAwaited, 353, ""},
	{0, LevelIgnored, 38, ""},
	{0, LimitUnarmed, 336, ""},
	{0, DroppedAtOnce, 6, ""},
	{0, UnboundCounts, 2532, ""},

	{0, Muted("lease-ran-out"), 271, ""},
	{0, Muted("guard-is-gone"), 54, ""},
	{0, Muted("arm-stopped"), 10, ""},
	{0, Muted("give-up"), 4, ""},
	{0, Muted("start-read-only"), 45, ""},
	{0, Muted("record-promotion"), 4, ""},
	{0, Muted("promotion-failed"), 14, ""},
	{0, Muted("first-set"), 14, ""},
	{0, Muted("promote-granted"), 4, ""},
	{0, Muted("regrant"), 4, ""},
	{0, Muted("wrong-timeline"), 0, ""},
	{0, Muted("disarm-paused"), 79, ""},
	{0, Muted("arm"), 2, ""},
	{0, Muted("arm-to-regrant"), 9273, ""},
	{0, Muted("lease-forgotten"), 4228, ""},
	{0, Muted("claim"), 4, ""},
	{0, Muted("seal"), 4, ""},
	{0, Muted("place-bid"), 4, ""},
	{0, Muted("decline"), 52, ""},
	{0, Muted("start-to-bid"), 14, ""},
	{0, Muted("rejoin"), 4, ""},
	{0, Muted("measure"), 3, ""},
	{0, Muted("follow-holder"), 4, ""},
	{0, Muted("expire"), 138, ""},
	{0, Muted("void"), 155, ""},
	{0, Muted("close"), 4, ""},
	{0, Muted("change-member"), 4, ""},
	{0, Muted("describe-member"), 2, ""},
	{0, Muted("hand-over-lead"), 0, ""},
	{0, Muted("sync-restore"), 9, ""},
	{0, Muted("sync-announce"), 59, ""},
	{0, Muted("sync-write"), 59, ""},
	{0, Muted("sync-drop"), 0, ""},
	{0, Muted("sync-prove"), 131, ""},
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
