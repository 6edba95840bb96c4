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
	{1, HoldWhole, 33, ""},
	{2, CountedFromAnswer, 150, ""},
	{3, RetryResets, 1443, ""},
	{4, ReleasedRevived, 63, ""},
	{5, ExpireBlind, 119, ""},
	{6, LeadsEarly, 0, "every change is judged again when it is applied, by the record as it is then: what a leader makes of an older one is refused"},
	{7, TimerKept, 4, ""},
	{8, GrantIsLease, 1418, ""},
	{9, ClaimTwice, 130, ""},
	{10, PromoteUnguarded, 21, ""},
	{12, WallClock, 21, ""},
	{13, PostmasterOnly, 33, ""},
	{14, ChildrenFirst, 33, ""},
	{15, ReleaseUnswept, 4, ""},
	{16, ScanOnce, 90, ""},
	{17, GuardFireOnce, 205, ""},
	{18, SealLeaky, 694, ""},
	{19, SealForgotten, 144, ""},
	{20, BidUnsealed, 133, ""},
	{21, BidReplayed, 6, ""},
	{22, BidReceived, 1, ""},
	{23, TermIgnored, 64, ""},
	{24, OldVacancy, 9, ""},
	{25, BidOverwritten, 44, ""},
	{26, DivergedCounts, 1249, ""},
	{27, OneBidLess, 30, ""},
	{28, SetUnannounced, 4, ""},
	{29, NoBarrier, 4878, ""},
	{30, SendersUnproven, 0, "the barrier: who has what was written after the signal is served by a walsender that has read the setting, and who has it has all before"},
	{31, NewestOnly, 30, ""},
	{32, FirstSetEmpty, 1, ""},
	{33, NamesUnbound, 0, "who acknowledges what it does not have has diverged, and its bid is not counted"},
	{34, TimelineChosen, 8, ""},
	{35, RejoinBlind, 8, ""},
	{36, RewindSkipped, 0, "a timeline's number is granted once: where it is equal, so is the history"},
	{37, TornStarted, 1, ""},
	{38, UnsealOnWord, 15, ""},
	{39, PromotionLeft, 82, ""},
	{40, VoteForgotten, 2, ""},
	{41, SentUnsaved, 26, ""},
	{42, SameRaftID, 22, ""},
	{45, UnpausedHeld, 54, ""},
	{47, NeverArmed, 2, ""},
	{48, PrimaryByRecord, 8, ""},
	{49, CancelCounted, 17, ""},
	{51, OwnDiskRenews, 122, ""},
	{52, SilentGrowth, 198, ""},
	{53, NoBackoff, 1, ""},
	{54, LastHolderIgnored, 14, ""},
	{0, TakenUnarmed, 33, ""},
	{0, NobodyLeaves, 133, ""},
	{0, OvertakenAwaited, 428, ""},
	{0, LevelIgnored, 38, ""},
	{0, LimitUnarmed, 2059, ""},
	{0, DroppedAtOnce, 30, ""},
	{0, UnboundCounts, 584, ""},

	{0, Muted("lease-ran-out"), 271, ""},
	{0, Muted("guard-is-gone"), 325, ""},
	{0, Muted("arm-stopped"), 31, ""},
	{0, Muted("give-up"), 4, ""},
	{0, Muted("start-read-only"), 45, ""},
	{0, Muted("record-promotion"), 2, ""},
	{0, Muted("promotion-failed"), 36, ""},
	{0, Muted("first-set"), 3, ""},
	{0, Muted("promote-granted"), 2, ""},
	{0, Muted("regrant"), 2, ""},
	{0, Muted("wrong-timeline"), 0, "the order that promotes has compared the numbers, and failed: promotion-failed follows"},
	{0, Muted("disarm-paused"), 311, ""},
	{0, Muted("arm"), 2, ""},
	{0, Muted("arm-to-regrant"), 132, ""},
	{0, Muted("lease-forgotten"), 4622, ""},
	{0, Muted("claim"), 4, ""},
	{0, Muted("seal"), 4, ""},
	{0, Muted("place-bid"), 4, ""},
	{0, Muted("decline"), 4, ""},
	{0, Muted("start-to-bid"), 4, ""},
	{0, Muted("rejoin"), 8, ""},
	{0, Muted("measure"), 8, ""},
	{0, Muted("follow-holder"), 3, ""},
	{0, Muted("expire"), 250, ""},
	{0, Muted("void"), 251, ""},
	{0, Muted("close"), 4, ""},
	{0, Muted("change-member"), 4, ""},
	{0, Muted("describe-member"), 2, ""},
	{0, Muted("hand-over-lead"), 7, ""},
	{0, Muted("sync-restore"), 4, ""},
	{0, Muted("sync-announce"), 47, ""},
	{0, Muted("sync-write"), 20, ""},
	{0, Muted("sync-drop"), 4, ""},
	{0, PromotionUntold, 662, ""},
	{0, PromotionGivenUp, 455, ""},
	{0, EndUnarmed, 4557, ""},
	{0, IntentForgotten, 4577, ""},
	{0, PromotionForgot, 1126, ""},
	{0, SilenceIsPeace, 141, ""},
	{0, AheadIgnored, 20786, ""},
	{0, Muted("primary-superseded"), 42, ""},
	{0, Muted("primary-doubted"), 17, ""},
	{0, Muted("bid-over"), 56, ""},
	{0, Muted("resume-receiver"), 3, ""},
	{0, Muted("primary-unrecorded"), 1, ""},
	{0, Muted("follow-new-primary"), 30, ""},
	{0, Muted("follow-primary"), 0, "an administrator starts the standby that is down, and has who is behind it there again"},
	{0, Muted("stop-receiver"), 59, ""},
	{0, Muted("bid"), 4, ""},
	{0, Muted("promote"), 4, ""},
	{0, Muted("sync-prove"), 4, ""},
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
			r := run(t, Options{Seed: d.seed, Defect: d.defect, Visibility: d.defect.sighted()})
			if t.Logf("%s: seed %d: %s", d.defect, d.seed, r.Violation); r.Violation == "" {
				t.Errorf("seed %d does not notice it", d.seed)
			}
			for _, less := range append(parts[d.defect], "") {
				if r := run(t, Options{Seed: d.seed, Defect: less, Visibility: d.defect.sighted()}); r.Violation != "" {
					t.Errorf("seed %d with %q instead: %s", d.seed, less, r.Violation)
				}
			}
		})
	}
}
