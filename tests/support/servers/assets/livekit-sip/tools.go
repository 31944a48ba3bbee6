//go:build tools

// Package tools pins livekit-sip, which `go install` can't build at a version.
package tools

import _ "github.com/livekit/sip/cmd/livekit-sip"
