package say

import "strings"

// Nearest returns the known name that was probably meant by one that is not
// known, "" if none is near. The last part of a dotted name may stand for the
// whole, golden for image.golden, and a name for one that goes on where it ends,
// KEYMILL_SERVER_TOKEN for KEYMILL_SERVER_TOKEN_FILE.
func Nearest(name string, known []string) string {
	best, least := "", max(2, len(lastPart(name))/3)+1
	for _, candidate := range known {
		far := distance(strings.ToLower(name), strings.ToLower(candidate))
		if own := lastPart(candidate); own != candidate {
			far = min(far, distance(strings.ToLower(lastPart(name)), own)+1)
		}
		if strings.HasPrefix(candidate, name+"_") {
			far = min(far, 2)
		}
		if far < least {
			best, least = candidate, far
		}
	}
	return best
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '.')+1:] }

// DidYouMean is the end of a complaint about an unknown name; what is near may be empty.
func DidYouMean(near string) string {
	if near == "" {
		return ""
	}
	return "; did you mean " + near + "?"
}

// distance is how many letters must be added, dropped, replaced or swapped with
// their neighbour to make b of a.
func distance(a, b string) int {
	before, last, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(last[j]+1, next[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, last, next = last, next, before
	}
	return last[len(b)]
}
