package hsm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// errUnwrap is all that an unwrapping says: which byte was wrong is nobody's business.
var errUnwrap = errors.New("the wrapped key doesn't unwrap")

// unwrapper takes the padding scheme of one mechanism off: wrapped bytes in, a
// key's PKCS#8 out (perhaps with zeros behind it).
type unwrapper func(kek cipher.Block, iv, wrapped []byte) ([]byte, error)

// unwrapKWP reverses AES key wrap with padding, RFC 5649.
func unwrapKWP(kek cipher.Block, _, wrapped []byte) ([]byte, error) {
	if len(wrapped) == 2*8 {
		return nil, errUnwrap // a key of 8 bytes or less is no key
	}
	iv, plain, err := unwrapBlocks(kek, wrapped)
	if err != nil {
		return nil, err
	}
	length := int(binary.BigEndian.Uint32(iv[4:]))
	if binary.BigEndian.Uint32(iv[:4]) != 0xA65959A6 || length <= len(plain)-8 || length > len(plain) || !allZero(plain[length:]) {
		Wipe(plain)
		return nil, errUnwrap
	}
	return plain[:length], nil
}

// unwrapPKCS7 reverses AES key wrap (RFC 3394) of PKCS#7-padded data, blocks of
// 8 or 16 bytes: what NSS means by CKM_AES_KEY_WRAP_PAD.
func unwrapPKCS7(kek cipher.Block, _, wrapped []byte) ([]byte, error) {
	iv, plain, err := unwrapBlocks(kek, wrapped)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint64(iv[:]) != 0xA6A6A6A6A6A6A6A6 {
		Wipe(plain)
		return nil, errUnwrap
	}
	return unpad(plain)
}

// unwrapZeros reverses AES key wrap (RFC 3394) of data that zeros may fill up;
// who parses the key tells where it ends.
func unwrapZeros(kek cipher.Block, _, wrapped []byte) ([]byte, error) {
	iv, plain, err := unwrapBlocks(kek, wrapped)
	if err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint64(iv[:]) != 0xA6A6A6A6A6A6A6A6 {
		Wipe(plain)
		return nil, errUnwrap
	}
	return plain, nil
}

// unwrapCBC reverses CKM_AES_CBC_PAD.
func unwrapCBC(kek cipher.Block, iv, wrapped []byte) ([]byte, error) {
	if len(wrapped) == 0 || len(wrapped)%aes.BlockSize != 0 || len(iv) != aes.BlockSize {
		return nil, errUnwrap
	}
	plain := make([]byte, len(wrapped))
	cipher.NewCBCDecrypter(kek, iv).CryptBlocks(plain, wrapped)
	return unpad(plain)
}

// unwrapBlocks is the unwrapping of RFC 3394, section 2.2.2; the caller checks
// the initial value.
func unwrapBlocks(kek cipher.Block, wrapped []byte) (iv [8]byte, plain []byte, err error) {
	n := len(wrapped)/8 - 1
	if len(wrapped)%8 != 0 || n < 2 {
		return iv, nil, errUnwrap
	}
	var block [aes.BlockSize]byte
	copy(block[:8], wrapped)
	plain = append([]byte(nil), wrapped[8:]...)
	for j := 5; j >= 0; j-- {
		for i := n; i >= 1; i-- {
			t := uint64(n*j + i)
			binary.BigEndian.PutUint64(block[:8], binary.BigEndian.Uint64(block[:8])^t)
			chunk := plain[(i-1)*8 : i*8]
			copy(block[8:], chunk)
			kek.Decrypt(block[:], block[:])
			copy(chunk, block[8:])
		}
	}
	copy(iv[:], block[:8])
	Wipe(block[:])
	return iv, plain, nil
}

func unpad(plain []byte) ([]byte, error) {
	pad := int(plain[len(plain)-1])
	valid := pad >= 1 && pad <= aes.BlockSize && pad < len(plain)
	if valid {
		for _, b := range plain[len(plain)-pad:] {
			valid = valid && subtle.ConstantTimeByteEq(b, byte(pad)) == 1
		}
	}
	if !valid {
		Wipe(plain)
		return nil, errUnwrap
	}
	return plain[:len(plain)-pad], nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
