//go:build cgo

package hsm

import (
	"context"
	"errors"
	"slices"

	"github.com/miekg/pkcs11"
)

// Names that miekg/pkcs11 lacks: PKCS#11 v3.0.
const (
	ckmAESKeyWrapKWP    = 0x210B
	ckmECEdwardsKeyPair = 0x1055
	ckmEdDSA            = 0x1057
	ckkECEdwards        = 0x40
	ckrCurveUnsupported = 0x140
)

// errHung says that the module didn't come back within Config.Timeout.
var errHung = errors.New("the PKCS#11 module doesn't answer")

// pinErrors end everything at once: another try would bring the token closer to
// locking itself.
var pinErrors = []pkcs11.Error{
	pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE, pkcs11.CKR_PIN_EXPIRED,
	pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_USER_PIN_NOT_INITIALIZED,
}

// cantErrors say that the module doesn't do such a thing; all others may be
// the session's or the token's state.
var cantErrors = []pkcs11.Error{
	pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT,
	pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
	pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_ATTRIBUTE_SENSITIVE, pkcs11.CKR_KEY_UNEXTRACTABLE, pkcs11.CKR_KEY_NOT_WRAPPABLE,
	pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED,
	pkcs11.CKR_WRAPPING_KEY_TYPE_INCONSISTENT, pkcs11.CKR_WRAPPING_KEY_SIZE_RANGE, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
	pkcs11.CKR_DOMAIN_PARAMS_INVALID, pkcs11.CKR_TOKEN_WRITE_PROTECTED, pkcs11.CKR_ARGUMENTS_BAD, ckrCurveUnsupported,
}

func isCKR(err error, codes ...pkcs11.Error) bool {
	code, ok := errors.AsType[pkcs11.Error](err)
	return ok && slices.Contains(codes, code)
}

// retryable reports whether a device that failed with err is worth a second
// try in a new session.
func retryable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || isCKR(err, cantErrors...) {
		return false
	}
	_, isGone := errors.AsType[*GoneError](err)
	_, isRefused := errors.AsType[*RefusedError](err)
	return !isGone && !isRefused
}
