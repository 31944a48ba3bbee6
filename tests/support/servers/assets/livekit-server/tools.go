//go:build tools

// Package tools pins livekit-server with all that it is built from.
package tools

import _ "github.com/livekit/livekit-server/cmd/server"
