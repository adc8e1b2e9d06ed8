//go:build cgo

package hsm

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Flags of CK_TOKEN_INFO that miekg/pkcs11 doesn't export under these names.
const (
	flagRNG            = 0x1
	flagWriteProtected = 0x2
	flagLoginRequired  = 0x4
	flagPINInitialized = 0x8
	flagPINPad         = 0x100 // CKF_PROTECTED_AUTHENTICATION_PATH
	flagInitialized    = 0x400
	flagPINCountLow    = 0x10000
	flagPINFinalTry    = 0x20000
	flagPINLocked      = 0x40000
)

// errNoToken may pass: a token that was taken out can be put back.
var errNoToken = errors.New("no token fits")

// findToken returns slot and description of the one token that u names.
func (m *module) findToken(u *URI) (uint, pkcs11.TokenInfo, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, err
	}
	var (
		found    []uint
		info     pkcs11.TokenInfo
		all, fit []string
		problem  error
	)
	for _, slot := range slots {
		token, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			problem = fmt.Errorf("ask slot %d for its token: %w", slot, err)
			continue // a reader whose card is being pulled out must not hide the others
		}
		all = append(all, tokenURI(token))
		if token.Flags&flagInitialized != 0 && m.matches(u, token) {
			found, info, fit = append(found, slot), token, append(fit, tokenURI(token))
		}
	}
	switch len(found) {
	case 1:
		return found[0], info, nil
	case 0:
		if problem != nil {
			return 0, info, problem
		}
		return 0, info, gone(fmt.Sprintf("`keymill hsm list` shows the tokens; this module has now: %s", orNone(all)),
			"%w %s", errNoToken, u)
	}
	return 0, info, refused(fmt.Sprintf("add token=, serial= or model= so that one is left of: %s", strings.Join(fit, "  ")),
		"%d tokens fit %s", len(found), u)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, "  ")
}

func (m *module) matches(u *URI, token pkcs11.TokenInfo) bool {
	_, version := m.describe()
	for _, pair := range [][2]string{
		{u.Token, token.Label}, {u.Serial, token.SerialNumber}, {u.Model, token.Model}, {u.Manufacturer, token.ManufacturerID},
		{u.LibraryManufacturer, m.info.ManufacturerID}, {u.LibraryDescription, m.info.LibraryDescription}, {u.LibraryVersion, version},
	} {
		if pair[0] != "" && pair[0] != trimmed(pair[1]) {
			return false
		}
	}
	return true
}

// trimmed drops the padding of CK_TOKEN_INFO's fields: blanks by the standard,
// NULs by some modules.
func trimmed(s string) string { return strings.TrimRight(s, " \x00") }

// tokenURI names a token, for messages and lists.
func tokenURI(token pkcs11.TokenInfo) string {
	u := URI{Token: trimmed(token.Label), Serial: trimmed(token.SerialNumber), Model: trimmed(token.Model), Manufacturer: trimmed(token.ManufacturerID)}
	return u.String()
}

// checkPIN refuses to log in where that could lock the token.
func checkPIN(token pkcs11.TokenInfo) error {
	switch {
	case token.Flags&flagPINLocked != 0:
		return gone("unlock it with the security officer's PIN (pkcs11-tool --init-pin)", "the token %s is locked: too many wrong PINs", trimmed(token.Label))
	case token.Flags&flagPINFinalTry != 0:
		return gone("log in once by hand with the right PIN (pkcs11-tool --login -O), which resets the count",
			"the token %s has one try left before it locks itself: keymill doesn't spend it", trimmed(token.Label))
	}
	return nil
}

// uncounted are the answers to C_Login that can't have counted as a try: the
// PIN didn't reach the token.
var uncounted = []pkcs11.Error{
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_DEVICE_REMOVED,
	pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
}

// explainLogin turns what C_Login says into an error with advice. All answers
// but the uncounted ones are final: vendors count with codes of their own.
func explainLogin(label string, err error) error {
	what, hint := "refuses the PIN", "check the PIN; keymill stopped at the first refusal, because tokens lock themselves"
	switch {
	case err == nil || isCKR(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case isCKR(err, uncounted...):
		return fmt.Errorf("log in to the token %s: %w", label, err)
	case isCKR(err, pkcs11.CKR_PIN_LOCKED):
		hint = "unlock the token with the security officer's PIN (pkcs11-tool --init-pin)"
	case isCKR(err, pkcs11.CKR_PIN_EXPIRED):
		hint = "set a new PIN (pkcs11-tool --change-pin)"
	case isCKR(err, pkcs11.CKR_USER_PIN_NOT_INITIALIZED):
		hint = "set the user's PIN first (pkcs11-tool --init-pin)"
	case isCKR(err, pkcs11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN, pkcs11.CKR_USER_TOO_MANY_TYPES):
		what, hint = "lets nobody in", "another user, such as the security officer, is logged in: end the program that holds that login"
	case isCKR(err, pkcs11.CKR_FUNCTION_CANCELED):
		what, hint = "was given no PIN at its pad", "run the same command again, and enter the PIN while it waits"
	case !isCKR(err, pinErrors...):
		what = "refuses the login"
		hint = "look the answer up in the vendor's manual before you try again: it may have counted as a wrong PIN, so that keymill stopped at the first"
	}
	return gone(hint, "the token %s %s: %w", label, what, err)
}
