package signature_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/posthaste/posthaste/internal/signature"
)

// The test vector that the wire format documents.
const (
	vectorKey     = "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r"
	vectorBody    = `{"hello":"world"}`
	vectorURL     = "https://example.com/api"
	vectorID      = "jwt_67kxXD6UBAk7DqU6hzuHMDdXFXfP"
	vectorPayload = `{"iss":"Upstash","sub":"https://example.com/api","exp":1700000300,"nbf":0,"iat":1700000000,"jti":"jwt_67kxXD6UBAk7DqU6hzuHMDdXFXfP","body":"k6I5cakU5erL8KjSUVTNownDwccvu5kU1Hxg88toFYg="}`
	vectorToken   = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJVcHN0YXNoIiwic3ViIjoiaHR0cHM6Ly9leGFtcGxlLmNvbS9hcGkiLCJleHAiOjE3MDAwMDAzMDAsIm5iZiI6MCwiaWF0IjoxNzAwMDAwMDAwLCJqdGkiOiJqd3RfNjdreFhENlVCQWs3RHFVNmh6dUhNRGRYRlhmUCIsImJvZHkiOiJrNkk1Y2FrVTVlckw4S2pTVVZUTm93bkR3Y2N2dTVrVTFIeGc4OHRvRllnPSJ9.HESNhHpOnxub1lpwjO61JF1249lv9jXAGFvQa6P1LOQ"
	otherKey      = "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs"
)

var vectorTime = time.Unix(1700000000, 999_999_999) // the token's seconds are rounded down

func vectorDelivery() signature.Delivery {
	d := signature.Delivery{URL: vectorURL, Body: []byte(vectorBody), At: vectorTime}
	copy(d.ID[:], vectorID)
	return d
}

// forge signs any two parts, as somebody who knows the key can.
func forge(key, header, payload string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func TestVector(t *testing.T) {
	if got := signature.NewSigner(vectorKey).Sign(vectorDelivery()); got != vectorToken {
		t.Errorf("Sign = %s\nwant   %s", got, vectorToken)
	}
	v := signature.Verifier{CurrentKey: vectorKey}
	got, err := v.Verify(vectorToken, []byte(vectorBody), vectorURL, vectorTime)
	if err != nil {
		t.Fatal(err)
	}
	want := signature.Claims{
		ID:        vectorID,
		URL:       vectorURL,
		IssuedAt:  time.Unix(1700000000, 0).UTC(),
		NotBefore: time.Unix(0, 0).UTC(),
		Expires:   time.Unix(1700000300, 0).UTC(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestEmptyBody(t *testing.T) {
	const want = `"body":"47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="}`
	s := signature.NewSigner(vectorKey)
	for _, body := range [][]byte{nil, {}} {
		token := s.Sign(signature.Delivery{URL: vectorURL, Body: body, At: vectorTime})
		if got := payloadOf(t, token); !strings.HasSuffix(got, want) {
			t.Errorf("payload = %s, want suffix %s", got, want)
		}
		for _, received := range [][]byte{nil, {}} {
			if _, err := (signature.Verifier{CurrentKey: vectorKey}).Verify(token, received, "", vectorTime); err != nil {
				t.Errorf("Verify of an empty body: %v", err)
			}
		}
	}
}

func payloadOf(tb testing.TB, token string) string {
	tb.Helper()
	b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestAppend(t *testing.T) {
	s := signature.NewSigner(vectorKey)
	got := s.Append([]byte("Bearer "), vectorDelivery())
	if want := "Bearer " + vectorToken; string(got) != want {
		t.Errorf("Append = %s, want %s", got, want)
	}
	// What one call leaves behind does not show in the next.
	long := vectorDelivery()
	long.URL = "https://example.com/" + strings.Repeat("x", 100_000)
	s.Sign(long)
	if got := s.Sign(vectorDelivery()); got != vectorToken {
		t.Errorf("Sign after a long URL = %s", got)
	}
}

func TestSignerIsShared(t *testing.T) {
	s := signature.NewSigner(vectorKey)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if got := s.Sign(vectorDelivery()); got != vectorToken {
					t.Errorf("Sign = %s", got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestSubjectEscaping(t *testing.T) {
	urls := []string{
		vectorURL,
		`https://example.com/?q="a"&b=<c>`,
		`https://example.com/\path`,
		"https://example.com/grüße/日本語/😀?x=\u2028\u2029",
		"https://example.com/\x00\x01\t\n\r\x1f\x7f",
		"https://example.com/?a=1&b=2#%22%3C",
		"https://example.com/\ufffd\ufeff",
		"",
	}
	var all strings.Builder
	for r := rune(0); r < 0x300; r++ {
		all.WriteRune(r)
	}
	urls = append(urls, all.String())
	s := signature.NewSigner(vectorKey)
	for _, url := range urls {
		d := vectorDelivery()
		d.URL = url
		token := s.Sign(d)
		var claims struct {
			Sub string `json:"sub"`
		}
		if err := json.Unmarshal([]byte(payloadOf(t, token)), &claims); err != nil {
			t.Errorf("payload for %q: %v", url, err)
		}
		if claims.Sub != url {
			t.Errorf("sub = %q, want %q", claims.Sub, url)
		}
		if _, err := (signature.Verifier{CurrentKey: vectorKey}).Verify(token, d.Body, url, vectorTime); err != nil {
			t.Errorf("Verify for %q: %v", url, err)
		}
	}
	d := vectorDelivery()
	d.URL = "https://example.com/<&>'"
	if payload := payloadOf(t, s.Sign(d)); !strings.Contains(payload, `"sub":"https://example.com/<&>'",`) {
		t.Errorf("payload = %s, want <, &, > and ' as they are", payload)
	}
	d.URL = "a\xffb\xc3"
	if payload := payloadOf(t, s.Sign(d)); !strings.Contains(payload, "\"sub\":\"a\ufffdb\ufffd\",") {
		t.Errorf("payload = %q, want U+FFFD for bytes that are not UTF-8", payload)
	}
}

func TestVerify(t *testing.T) {
	const head = `{"alg":"HS256","typ":"JWT"}`
	sum := sha256.Sum256([]byte(vectorBody))
	padded := base64.URLEncoding.EncodeToString(sum[:])
	claims := func(changes ...string) string {
		m := map[string]any{"iss": "Upstash", "sub": vectorURL, "exp": 1700000300, "nbf": 0, "iat": 1700000000, "jti": vectorID, "body": padded}
		for _, change := range changes {
			name, value, ok := strings.Cut(change, "=")
			delete(m, name)
			if ok {
				m[name] = json.RawMessage(value)
			}
		}
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	parts := strings.Split(vectorToken, ".")
	flip := func(s string, i int) string {
		b := []byte(s)
		if b[i] == 'A' {
			b[i] = 'B'
		} else {
			b[i] = 'A'
		}
		return string(b)
	}
	current := signature.Verifier{CurrentKey: vectorKey, NextKey: otherKey}
	at := func(sec int64, nsec int64) time.Time { return time.Unix(sec, nsec) }

	tests := []struct {
		name  string
		v     signature.Verifier
		token string
		body  string
		url   string
		now   time.Time
		want  error
	}{
		{"current key", current, vectorToken, vectorBody, vectorURL, vectorTime, nil},
		{"next key", signature.Verifier{CurrentKey: otherKey, NextKey: vectorKey}, vectorToken, vectorBody, vectorURL, vectorTime, nil},
		{"only next key", signature.Verifier{NextKey: vectorKey}, vectorToken, vectorBody, vectorURL, vectorTime, nil},
		{"no key", signature.Verifier{}, vectorToken, vectorBody, vectorURL, vectorTime, signature.ErrNoKey},
		{"other keys", signature.Verifier{CurrentKey: otherKey, NextKey: otherKey}, vectorToken, vectorBody, vectorURL, vectorTime, signature.ErrSignature},
		{"key without sig_", signature.Verifier{CurrentKey: vectorKey[4:]}, vectorToken, vectorBody, vectorURL, vectorTime, signature.ErrSignature},
		{"signed with the empty key", signature.Verifier{NextKey: vectorKey}, forge("", head, claims()), vectorBody, vectorURL, vectorTime, signature.ErrSignature},

		{"empty token", current, "", vectorBody, "", vectorTime, signature.ErrMalformed},
		{"two parts", current, parts[0] + "." + parts[1], vectorBody, "", vectorTime, signature.ErrMalformed},
		{"four parts", current, vectorToken + ".x", vectorBody, "", vectorTime, signature.ErrMalformed},
		{"dots", current, "..", vectorBody, "", vectorTime, signature.ErrMalformed},
		{"header not base64", current, "!." + parts[1] + "." + parts[2], vectorBody, "", vectorTime, signature.ErrMalformed},
		{"header not JSON", current, forge(vectorKey, "HS256", claims()), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"claims not JSON", current, forge(vectorKey, head, "claims"), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"claims null", current, forge(vectorKey, head, "null"), vectorBody, "", vectorTime, signature.ErrIssuer},
		{"signature missing", current, parts[0] + "." + parts[1] + ".", vectorBody, "", vectorTime, signature.ErrSignature},
		{"signature changed", current, flip(vectorToken, len(vectorToken)-10), vectorBody, "", vectorTime, signature.ErrSignature},
		{"signature respelled", current, vectorToken[:len(vectorToken)-1] + "R", vectorBody, "", vectorTime, signature.ErrSignature},
		{"signature padded", current, vectorToken + "=", vectorBody, "", vectorTime, signature.ErrSignature},
		{"signature with line break", current, vectorToken + "\n", vectorBody, "", vectorTime, signature.ErrSignature},
		{"claims changed", current, flip(vectorToken, len(parts[0])+30), vectorBody, "", vectorTime, signature.ErrSignature},

		{"alg none", current, forge(vectorKey, `{"alg":"none"}`, claims()), vectorBody, "", vectorTime, signature.ErrAlgorithm},
		{"alg none, unsigned", current, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + parts[1] + ".", vectorBody, "", vectorTime, signature.ErrAlgorithm},
		{"alg HS512", current, forge(vectorKey, `{"alg":"HS512"}`, claims()), vectorBody, "", vectorTime, signature.ErrAlgorithm},
		{"alg in lower case", current, forge(vectorKey, `{"alg":"hs256"}`, claims()), vectorBody, "", vectorTime, signature.ErrAlgorithm},
		{"alg missing", current, forge(vectorKey, `{"typ":"JWT"}`, claims()), vectorBody, "", vectorTime, signature.ErrAlgorithm},
		{"crit", current, forge(vectorKey, `{"alg":"HS256","crit":["b64"],"b64":false}`, claims()), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"header in another order", current, forge(vectorKey, `{ "typ":"JWT", "alg":"HS256" }`, claims()), vectorBody, vectorURL, vectorTime, nil},

		{"issuer", current, forge(vectorKey, head, claims(`iss="Other"`)), vectorBody, "", vectorTime, signature.ErrIssuer},
		{"issuer missing", current, forge(vectorKey, head, claims("iss")), vectorBody, "", vectorTime, signature.ErrIssuer},
		{"sub missing", current, forge(vectorKey, head, claims("sub")), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"exp missing", current, forge(vectorKey, head, claims("exp")), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"nbf missing", current, forge(vectorKey, head, claims("nbf")), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"body missing", current, forge(vectorKey, head, claims("body")), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"exp as text", current, forge(vectorKey, head, claims(`exp="1700000300"`)), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"exp null", current, forge(vectorKey, head, claims(`exp=null`)), vectorBody, "", vectorTime, signature.ErrMalformed},
		{"exp with fraction", current, forge(vectorKey, head, claims(`exp=1700000001.5`)), vectorBody, "", vectorTime, nil},
		{"exp huge", current, forge(vectorKey, head, claims(`exp=1e300`)), vectorBody, "", vectorTime, nil},
		{"iat and jti missing", current, forge(vectorKey, head, claims("iat", "jti")), vectorBody, "", vectorTime, nil},

		{"last moment", current, vectorToken, vectorBody, "", at(1700000299, 999_999_000), nil},
		{"expired", current, vectorToken, vectorBody, "", at(1700000300, 0), signature.ErrExpired},
		{"expired, within leeway", signature.Verifier{CurrentKey: vectorKey, Leeway: 10 * time.Second}, vectorToken, vectorBody, "", at(1700000309, 0), nil},
		{"expired beyond leeway", signature.Verifier{CurrentKey: vectorKey, Leeway: 10 * time.Second}, vectorToken, vectorBody, "", at(1700000310, 0), signature.ErrExpired},
		{"before nbf", current, forge(vectorKey, head, claims("nbf=1700000000")), vectorBody, "", at(1699999999, 0), signature.ErrNotYetValid},
		{"at nbf", current, forge(vectorKey, head, claims("nbf=1700000000")), vectorBody, "", at(1700000000, 0), nil},
		{"before nbf, within leeway", signature.Verifier{CurrentKey: vectorKey, Leeway: time.Second}, forge(vectorKey, head, claims("nbf=1700000000")), vectorBody, "", at(1699999999, 0), nil},
		{"iat in the future", current, vectorToken, vectorBody, vectorURL, at(1600000000, 0), nil},

		{"other URL", current, vectorToken, vectorBody, vectorURL + "/", vectorTime, signature.ErrURL},
		{"URL in other case", current, vectorToken, vectorBody, "https://EXAMPLE.com/api", vectorTime, signature.ErrURL},
		{"no URL to compare", current, vectorToken, vectorBody, "", vectorTime, nil},
		{"other body", current, vectorToken, vectorBody + " ", vectorURL, vectorTime, signature.ErrBody},
		{"no body", current, vectorToken, "", vectorURL, vectorTime, signature.ErrBody},
		{"body hash unpadded", current, forge(vectorKey, head, claims(`body="`+strings.TrimRight(padded, "=")+`"`)), vectorBody, vectorURL, vectorTime, nil},
		{"body hash empty", current, forge(vectorKey, head, claims(`body=""`)), vectorBody, vectorURL, vectorTime, signature.ErrBody},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			claims, err := tt.v.Verify(tt.token, []byte(tt.body), tt.url, tt.now)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Verify: error %v, want %v", err, tt.want)
			}
			if err != nil && claims != (signature.Claims{}) {
				t.Errorf("a refused token left claims: %+v", claims)
			}
			if err == nil && claims.URL != vectorURL {
				t.Errorf("claims.URL = %q, want %q", claims.URL, vectorURL)
			}
		})
	}
}

// TestEveryBitCounts flips each bit of a token in turn; none of the results may be accepted.
func TestEveryBitCounts(t *testing.T) {
	v := signature.Verifier{CurrentKey: vectorKey, NextKey: otherKey}
	for i := range len(vectorToken) * 8 {
		b := []byte(vectorToken)
		b[i/8] ^= 1 << (i % 8)
		if _, err := v.Verify(string(b), []byte(vectorBody), vectorURL, vectorTime); err == nil {
			t.Errorf("token with bit %d flipped was accepted: %s", i, b)
		}
	}
}

func TestOtherImplementationVerifies(t *testing.T) {
	s := signature.NewSigner(vectorKey)
	for _, url := range []string{vectorURL, "https://example.com/?q=\"<&>\u2028😀\\\x01"} {
		d := vectorDelivery()
		d.URL = url
		var claims struct {
			Body string `json:"body"`
			jwt.RegisteredClaims
		}
		_, err := jwt.ParseWithClaims(s.Sign(d), &claims,
			func(*jwt.Token) (any, error) { return []byte(vectorKey), nil },
			jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("Upstash"), jwt.WithSubject(url),
			jwt.WithExpirationRequired(), jwt.WithNotBeforeRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
			jwt.WithTimeFunc(func() time.Time { return vectorTime }))
		if err != nil {
			t.Errorf("golang-jwt refuses the token for %q: %v", url, err)
		}
		if claims.ID != vectorID || claims.Body != "k6I5cakU5erL8KjSUVTNownDwccvu5kU1Hxg88toFYg=" {
			t.Errorf("claims = %+v", claims)
		}
	}
}

func TestOtherImplementationSigns(t *testing.T) {
	sum := sha256.Sum256([]byte(vectorBody))
	for _, encoding := range []*base64.Encoding{base64.URLEncoding, base64.RawURLEncoding} {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iss": "Upstash", "sub": vectorURL + "?a=<b>&c", "exp": 1700000300, "nbf": 1700000000, "iat": 1700000000,
			"jti": vectorID, "body": encoding.EncodeToString(sum[:]),
		}).SignedString([]byte(vectorKey))
		if err != nil {
			t.Fatal(err)
		}
		v := signature.Verifier{CurrentKey: otherKey, NextKey: vectorKey}
		if _, err := v.Verify(token, []byte(vectorBody), vectorURL+"?a=<b>&c", vectorTime); err != nil {
			t.Errorf("Verify of a golang-jwt token: %v", err)
		}
	}
}

func FuzzSign(f *testing.F) {
	f.Add(vectorURL, []byte(vectorBody), int64(1700000000))
	f.Add("https://example.com/\"\\\x00\u2028<&>", []byte(nil), int64(0))
	f.Fuzz(func(t *testing.T, url string, body []byte, unix int64) {
		// Beyond the year 30000 a float no longer tells neighbouring nanoseconds apart; no clock gets there.
		unix = max(0, min(unix, 1<<40-1000))
		at := time.Unix(unix, 0)
		d := signature.Delivery{URL: url, Body: body, At: at}
		token := signature.NewSigner(vectorKey).Sign(d)
		got, err := (signature.Verifier{CurrentKey: vectorKey}).Verify(token, body, "", at)
		if err != nil {
			t.Fatalf("Verify: %v", err)
		}
		// Ranging over a string replaces each byte that is not UTF-8, too.
		if want := string([]rune(url)); got.URL != want {
			t.Errorf("URL = %q, want %q", got.URL, want)
		}
		if !got.IssuedAt.Equal(at) || got.Expires.Sub(got.IssuedAt) != signature.Lifetime {
			t.Errorf("claims = %+v, signed at %v", got, at)
		}
		if !json.Valid([]byte(payloadOf(t, token))) {
			t.Errorf("payload is not JSON: %q", payloadOf(t, token))
		}
	})
}

func FuzzVerify(f *testing.F) {
	f.Add(vectorToken, []byte(vectorBody))
	f.Add(vectorToken+".", []byte(nil))
	f.Add("..", []byte(nil))
	f.Add("eyJhbGciOiJub25lIn0.e30.", []byte(nil))
	f.Add(forge("", `{"alg":"HS256"}`, vectorPayload), []byte(vectorBody))
	f.Add(forge(otherKey, `{"alg":"HS256","crit":null}`, vectorPayload), []byte(vectorBody))
	v := signature.Verifier{CurrentKey: vectorKey}
	f.Fuzz(func(t *testing.T, token string, body []byte) {
		_, err := v.Verify(token, body, "", vectorTime)
		// The fuzzer knows one token of this key. It cannot make another.
		if err == nil && (token != vectorToken || !bytes.Equal(body, []byte(vectorBody))) {
			t.Errorf("accepted %q with body %q", token, body)
		}
		// Signed with the key, any two parts must be handled; and what is accepted is good in other eyes too.
		parts := strings.SplitN(token, ".", 2)
		if len(parts) < 2 {
			return
		}
		forged := forge(vectorKey, parts[0], parts[1])
		if _, err := v.Verify(forged, body, "", vectorTime); err == nil {
			_, err := jwt.Parse(forged, func(*jwt.Token) (any, error) { return []byte(vectorKey), nil },
				jwt.WithValidMethods([]string{"HS256"}), jwt.WithTimeFunc(func() time.Time { return vectorTime }))
			if err != nil {
				t.Errorf("accepted %q, which golang-jwt refuses: %v", forged, err)
			}
		}
	})
}

func BenchmarkSign(b *testing.B) {
	s := signature.NewSigner(vectorKey)
	d := vectorDelivery()
	b.ReportAllocs()
	for b.Loop() {
		d.ID = signature.NewTokenID(signature.Random{1, 2, 3})
		s.Sign(d)
	}
}

func BenchmarkAppend(b *testing.B) {
	s := signature.NewSigner(vectorKey)
	d := vectorDelivery()
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		s.Append(buf, d)
	}
}

func BenchmarkVerify(b *testing.B) {
	v := signature.Verifier{CurrentKey: vectorKey, NextKey: otherKey}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(vectorToken, []byte(vectorBody), vectorURL, vectorTime); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewTokenID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		signature.NewTokenID(signature.Random{1, 2, 3})
	}
}
