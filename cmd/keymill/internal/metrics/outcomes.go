package metrics

// The outcomes of a lot in a batch.
const (
	Closed  = "closed"  // all is done
	Failed  = "failed"  // not all devices, or stopped; it stays in work/
	Refused = "refused" // its manifest is
	Stopped = "stopped" // told to; it stays in work/
)
