//go:build tools

// Package etcd names what is built.
package etcd

import _ "go.etcd.io/etcd/server/v3"
