package wire

import "github.com/posthaste/posthaste"

// DevUser is a user that every development server has, with a token and keys that are public knowledge. The QStash client
// libraries and their tests know them; they must never guard anything real.
type DevUser struct {
	Token string
	Keys  posthaste.SigningKeys
}

// DevUsers returns the development users. The first is the one the client libraries use by default.
func DevUsers() []DevUser {
	return []DevUser{
		{
			Token: "eyJVc2VySUQiOiJkZWZhdWx0VXNlciIsIlBhc3N3b3JkIjoiZGVmYXVsdFBhc3N3b3JkIn0=",
			Keys: posthaste.SigningKeys{
				Current: "sig_7kYjw48mhY7kAjqNGcy6cr29RJ6r",
				Next:    "sig_5ZB6DVzB1wjE8S6rZ7eenA8Pdnhs",
			},
		},
		{
			Token: "eyJVc2VySUQiOiJ0ZXN0VXNlcjEiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
			Keys: posthaste.SigningKeys{
				Current: "sig_7GVPjvuwsfqF65iC8fSrs1dfYruM",
				Next:    "sig_5NoELc3EFnZn4DVS5bDs2Nk4b7Ua",
			},
		},
		{
			Token: "eyJVc2VySUQiOiJ0ZXN0VXNlcjIiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
			Keys: posthaste.SigningKeys{
				Current: "sig_6jWGaWRxHsw4vMSPJprXadyvrybF",
				Next:    "sig_7qHbvhmahe5GwfePDiS5Lg3pi6Qx",
			},
		},
		{
			Token: "eyJVc2VySUQiOiJ0ZXN0VXNlcjMiLCJQYXNzd29yZCI6InRlc3RQYXNzd29yZCJ9",
			Keys: posthaste.SigningKeys{
				Current: "sig_5T8FcSsynBjn9mMLBsXhpacRovJf",
				Next:    "sig_7GFR4YaDshFcqsxWRZpRB161jguD",
			},
		},
	}
}
