package sandbox

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymill/pipeline"
)

func TestParsePlan(t *testing.T) {
	plan, err := ParsePlan(`
# a night at the factory
after 200 requests answer 503 for 20 s
after 1.5min 5 % of requests on preauthorize, get cut after storing   # both ends
every 50 requests answer 429 retry after 2 s
on list truncate once
	stall 30s after storing for 3 requests
0.5% of requests answer 500 after storing
orphan
slow 250 ms
revoke once
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		{AfterCalls: 200, Fault: FaultAnswer, Status: 503, Time: 20 * time.Second},
		{AfterTime: 90 * time.Second, Share: 0.05, Ops: []Op{OpPreauthorize, OpGet}, Fault: FaultResetAfter},
		{Every: 50, Fault: FaultAnswer, Status: 429, RetryAfter: 2},
		{Ops: []Op{OpList}, Fault: FaultTruncate, Calls: 1},
		{Fault: FaultStallAfter, Delay: 30 * time.Second, Calls: 3},
		{Share: 0.005, Fault: FaultAnswerStored, Status: 500},
		{Fault: FaultOrphan500},
		{Fault: FaultSlow, Delay: 250 * time.Millisecond},
		{Fault: FaultRevoke, Calls: 1},
	}
	if !reflect.DeepEqual(plan, want) {
		t.Errorf("parsed\n%v, want\n%v", plan, want)
	}
	for _, rule := range want {
		again, err := ParsePlan(rule.String())
		if err != nil || !reflect.DeepEqual(again, Plan{rule}) {
			t.Errorf("%q is read as %v, %v", rule, again, err)
		}
	}
}

// TestRuleText has the rules that are never read, and rounding.
func TestRuleText(t *testing.T) {
	for want, rule := range map[string]Rule{
		"answer 500":                        {Fault: FaultFail},
		"answer 500 after storing":          {Fault: FaultStored500},
		"7 % of requests cut":               {Share: 0.07, Fault: FaultResetBefore},
		"0.1 % of requests stall 90 s":      {Share: 0.001, Fault: FaultStallBefore, Delay: 90 * time.Second},
		"after 2 h on get slow 1500 ms":     {AfterTime: 2 * time.Hour, Ops: []Op{OpGet}, Fault: FaultSlow, Delay: 1500 * time.Millisecond},
		"every 3 requests orphan for 5 min": {Every: 3, Fault: FaultOrphan500, Time: 5 * time.Minute},
	} {
		if got := rule.String(); got != want {
			t.Errorf("written %q, want %q", got, want)
		}
	}
}

func TestParsePlanErrors(t *testing.T) {
	for text, want := range map[string]string{
		"fail":                           `line 1, column 1: answer, cut, stall, slow, truncate, orphan, unavailable or revoke expected, found "fail"`,
		"\n  after 20 answer 503":        `line 2, column 12: requests or a unit (ms, s, min, h) expected, found "answer"`,
		"after":                          `column 6: a number expected, found the end of the line`,
		"after 0 requests cut":           `column 9: requests or a unit (ms, s, min, h) expected, found "requests"`,
		"answer 200":                     `column 8: an HTTP status from 400 to 599 expected, found "200"`,
		"answer":                         `column 7: an HTTP status from 400 to 599 expected, found the end of the line`,
		"answer 503 for 20 seconds":      `column 19: requests or a unit (ms, s, min, h) expected, found "seconds"`,
		"answer 503 for 20 s and more":   `column 21: the end of the rule expected, found "and"`,
		"on gett cut":                    `column 4: the name of a call, as preauthorize or get, expected, found "gett"`,
		"on login cut":                   `column 4: the name of a call`,
		"on get, cut":                    `column 9: the name of a call`,
		"120% of requests cut":           `column 1: a share above 0 and up to 100 % expected, found "120"`,
		"5 of requests cut":              `column 3: "% of requests" expected, found "of"`,
		"5 % of cut":                     `column 8: "requests" expected, found "cut"`,
		"1.2.3 % of requests cut":        `column 1: a number expected`,
		"every 1.5 requests cut":         `column 7: a whole number from 1 to 1000000000 expected, found "1.5"`,
		"stall":                          `column 6: a number expected, found the end of the line`,
		"stall 0 s":                      `column 7: a time from 1 ms to 1000 h expected`,
		"stall 9999999999999999999999 h": `column 7: a time from 1 ms to 1000 h expected`,
		"answer 429 retry after 1.5 s":   `column 24: whole seconds expected, found "1.5"`,
		"cut afterwards":                 `column 5: the end of the rule expected`,
		"cut for NaN s":                  `column 9: a number expected`,
	} {
		_, err := ParsePlan(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
		if pipeline.Hint(err) == "" {
			t.Errorf("%q: no hint", text)
		}
	}
}

// FuzzParsePlan: what was read can be written and read again.
func FuzzParsePlan(f *testing.F) {
	f.Add("after 200 requests answer 503 for 20 s\n7% of requests on get, list cut after storing once")
	f.Add("after 1.5min every 3 requests stall 2h after storing # x\nanswer 429 retry after 2 s\nslow 1ms\norphan")
	f.Fuzz(func(t *testing.T, text string) {
		plan, err := ParsePlan(text)
		if err != nil {
			return
		}
		written := ""
		for _, r := range plan {
			written += r.String() + "\n"
		}
		again, err := ParsePlan(written)
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, written, err)
		}
		rewritten := ""
		for _, r := range again {
			rewritten += r.String() + "\n"
		}
		if written != rewritten {
			t.Fatalf("%q became %q", written, rewritten)
		}
	})
}

// row runs calls, a second apart, through a plan and returns their answers in
// short: "-" for none wrong, else the status.
func row(t *testing.T, plan string, calls int) string {
	t.Helper()
	rules, err := ParsePlan(plan)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Faults: Faults{Plan: rules}})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for range calls {
		if code := callCount(s).Code; code == 200 {
			b.WriteString("- ")
		} else {
			fmt.Fprintf(&b, "%d ", code)
		}
		time.Sleep(time.Second)
	}
	return strings.TrimSpace(b.String())
}

// TestPlanAtWork has the times of rules, calls being a second apart.
func TestPlanAtWork(t *testing.T) {
	for plan, want := range map[string]string{
		"after 2 requests answer 503 for 3 s":         "- - 503 503 503 - - -",
		"after 3 s answer 502 for 2 requests":         "- - - 502 502 - - -",
		"after 2 s answer 500":                        "- - 500 500 500 500 500 500",
		"every 3 requests answer 429":                 "- - 429 - - 429 - -",
		"after 1 request every 2 requests answer 429": "- - 429 - 429 - 429 -",
		"answer 504 once":                             "504 - - - - - - -",
		"on get answer 500":                           "- - - - - - - -",
		"on get, count answer 500 once":               "500 - - - - - - -",
		"orphan":                                      "- - - - - - - -",
		"answer 502 once\nafter 1 request answer 503 for 2 requests\nanswer 500": "502 500 503 503 500 500 500 500",
		"after 2 requests revoke once":                                           "- - 401 - - - - -",
	} {
		synctest.Test(t, func(t *testing.T) {
			if got := row(t, plan, 8); got != want {
				t.Errorf("%q\ngives %s\nwant  %s", plan, got, want)
			}
		})
	}
}

// TestAnswersOfTheGateway has what comes from the proxy before the service.
func TestAnswersOfTheGateway(t *testing.T) {
	for plan, want := range map[string]struct{ mime, body, retryAfter string }{
		"answer 502":                   {"text/html", "<h1>502 Bad Gateway</h1>", ""},
		"answer 504":                   {"text/html", "<h1>504 Gateway Time", ""},
		"answer 503":                   {"text/plain; charset=utf-8", "no available server", ""},
		"answer 503 retry after 1 min": {"text/plain; charset=utf-8", "no available server", "60"},
		"answer 429":                   {mimeJSON, `{"error":"too many requests"`, ""},
		"answer 429 retry after 7 s":   {mimeJSON, `{"error":"too many requests"`, "7"},
		"answer 401":                   {mimeJSON, `{"error":"Unauthorized"`, ""},
	} {
		rules, err := ParsePlan(plan)
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Faults: Faults{Plan: rules}})
		if err != nil {
			t.Fatal(err)
		}
		w := callCount(s)
		if w.Header().Get("Content-Type") != want.mime || !strings.Contains(w.Body.String(), want.body) ||
			w.Header().Get("Retry-After") != want.retryAfter {
			t.Errorf("%q answers %v %s", plan, w.Header(), w.Body)
		}
	}
}

// TestBrokenAnswers has answers that never come whole, and whether the call was
// carried out.
func TestBrokenAnswers(t *testing.T) {
	_, public := newKey(t, "ed25519")
	for plan, want := range map[string]struct {
		stored, whole bool
		status        int // 0: none
	}{
		"cut":                       {false, false, 0},
		"cut after storing":         {true, false, 0},
		"stall 20 ms":               {false, false, 0},
		"stall 20 ms after storing": {true, false, 0},
		"truncate":                  {true, false, 201},
		"slow 20 ms":                {true, true, 201},
		"answer 502":                {false, true, 502},
		"answer 502 after storing":  {true, true, 502},
		"revoke":                    {false, true, 401},
	} {
		t.Run(plan, func(t *testing.T) {
			rules, err := ParsePlan(plan + " once")
			if err != nil {
				t.Fatal(err)
			}
			srv := start(t, Config{Faults: Faults{Plan: rules}})
			r, err := srv.try(t.Context(), "POST", devauth+"/devices", preauth(`{"mac":"aa"}`, public, false))
			if (err == nil) != want.whole {
				t.Errorf("the answer is whole: %t (%v)", err == nil, err)
			}
			if r.Response != nil && r.StatusCode != want.status || r.Response == nil && want.status != 0 {
				t.Errorf("answered %v, want %d", r.Response, want.status)
			}
			if _, ok := srv.Find([]byte(`{"mac":"aa"}`)); ok != want.stored {
				t.Errorf("stored: %t, want %t", ok, want.stored)
			}
		})
	}
	t.Run("a page cut in its middle", func(t *testing.T) {
		srv := start(t, Config{})
		for n := range 20 {
			srv.do(t, "POST", "/devices", preauth(fmt.Sprintf(`{"n":"%d"}`, n), public, false))
		}
		srv.SetFaults(Faults{Plan: Plan{{Fault: FaultTruncate}}})
		r, err := srv.try(t.Context(), "GET", devauth+"/devices", "")
		if err == nil || len(r.body) < 1000 || !strings.HasPrefix(r.body, `[{"id":`) {
			t.Errorf("read %d bytes, %v", len(r.body), err)
		}
	})
	t.Run("a slow deletion", func(t *testing.T) {
		srv := start(t, Config{})
		srv.do(t, "POST", "/devices", preauth(`{"mac":"aa"}`, public, false))
		srv.SetFaults(Faults{Plan: Plan{{Fault: FaultSlow, Delay: time.Millisecond}}})
		srv.do(t, "DELETE", "/devices/"+srv.device(t, `{"mac":"aa"}`).ID, "").want(t, 200)
	})
}

// TestLatency: half of the calls take longer than the median, one in twenty
// longer than the 95th percentile.
func TestLatency(t *testing.T) {
	in := newInjector(Faults{Latency: 20 * time.Millisecond, LatencyP95: 80 * time.Millisecond}, 1)
	const calls = 20_000
	above := map[time.Duration]int{}
	for range calls {
		d := in.latency()
		for _, mark := range []time.Duration{0, 20 * time.Millisecond, 80 * time.Millisecond} {
			if d > mark {
				above[mark]++
			}
		}
	}
	for mark, want := range map[time.Duration]float64{0: 1, 20 * time.Millisecond: 0.5, 80 * time.Millisecond: 0.05} {
		if got := float64(above[mark]) / calls; got < want*0.9 || got > want*1.1 {
			t.Errorf("%.3f of the calls take longer than %v, want about %.2f", got, mark, want)
		}
	}
	if d := newInjector(Faults{Latency: time.Second, LatencyP95: time.Millisecond}, 1).latency(); d != time.Second {
		t.Errorf("a 95th percentile below the median gives %v", d)
	}
}

func TestCertLife(t *testing.T) {
	for life, good := range map[time.Duration]bool{-time.Hour: false, -48 * time.Hour: false, time.Hour: true} {
		srv := start(t, Config{CertLife: life})
		_, err := srv.try(t.Context(), "GET", devauth+"/devices/count", "")
		if (err == nil) != good {
			t.Errorf("with a certificate of %v: %v", life, err)
		}
		if !good && (err == nil || !strings.Contains(err.Error(), "expired")) {
			t.Errorf("with a certificate of %v: %v", life, err)
		}
	}
}

func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{TokenLife: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		token := s.Token()
		time.Sleep(time.Hour - time.Second)
		if w := send(s, "GET", devauth+"/devices/count", "", header("Authorization", "Bearer "+token)); w.Code != 200 {
			t.Errorf("a second before its end the token gets %d", w.Code)
		}
		time.Sleep(time.Second)
		if w := send(s, "GET", devauth+"/devices/count", "", header("Authorization", "Bearer "+token)); w.Code != 401 {
			t.Errorf("after its end the token gets %d", w.Code)
		}
	})
}
