package loop

import (
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
)

// BenchmarkBroadcastBegins measures the longest that a loop is at work, and hears of nothing else, while a broadcast finds its sessions: the mean of
// all broadcasts. As
// BenchmarkCollectSessions it takes HALLEY_BENCH_SESSIONS, here 500,000, of which half are the loop's.
func BenchmarkBroadcastBegins(b *testing.B) {
	sessions := benchSessions(b)
	l := newTables(b, sessions).loops[0]
	everyone := roaring.New()
	everyone.AddRange(0, uint64(sessions))
	for name, members := range map[string]*roaring.Bitmap{
		"everyone": everyone, "ten": roaring.BitmapOf(0, 2, 4, 6, 8, 10, 12, 14, 16, 18),
	} {
		b.Run(name, func(b *testing.B) {
			var longest, sum time.Duration
			turn := func(what func()) {
				begin := time.Now()
				what()
				longest = max(longest, time.Since(begin))
			}
			for b.Loop() {
				longest = 0
				j := &job{broadcast: &broadcast{key: pushSlice{appSlice: appSlice{app: 7}}, members: members}}
				turn(func() { j.run(l) })
				for j.unfound != nil {
					turn(l.runJobs)
				}
				l.jobs = nil
				sum += longest
			}
			b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "longest-µs")
		})
	}
}
