package pipeline

import "context"

// Follower is told when a worker takes up a device, with from "", and when each
// of its steps begins, with the state that the step starts from. It returns the
// context that keys, images and server get, and what is called at the end: for
// a step with the step's error; for a device, whose record says by then how it
// ended, with what stopped the run. Many goroutines call it at once, and it
// stands in every device's way: it must not wait.
type Follower func(ctx context.Context, rec *Record, from State) (_ context.Context, ended func(error))

// follow tells the follower, and returns the reins of what is followed.
func (l *Line) follow(r *reins, rec *Record, from State) (*reins, func(error)) {
	if l.Follow == nil {
		return r, unfollowed
	}
	ctx, ended := l.Follow(r.hard, rec, from)
	return &reins{soft: r.soft, hard: ctx, stop: r.stop}, ended
}

func unfollowed(error) {}
