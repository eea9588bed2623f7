package rest

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/crypto/ssh"

	"tarn/backends"
)

// answerChallenge gets what is to be signed (GET /auth/ssh_challenge_token), which the server takes for 10 s, and signs it:
// the base64 of RFC 4253's signature blob, by rsa-sha2-256 as Rucio's own client (common/utils.py, ssh_sign).
func (c *Client) answerChallenge(ctx context.Context) (string, error) {
	key, err := c.sshKey()
	if err != nil {
		return "", err
	}
	challenge := ""
	k := call{method: http.MethodGet, route: "/auth/ssh_challenge_token", path: "/auth/ssh_challenge_token"}
	err = c.send(ctx, k, nil, nil, func(r *http.Response) error {
		if challenge = r.Header.Get("X-Rucio-SSH-Challenge-Token"); challenge == "" {
			return fmt.Errorf("the answer has no challenge; is this a Rucio server? %w", backends.ErrUnavailable)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	sig, err := key.SignWithAlgorithm(rand.Reader, []byte(challenge), ssh.KeyAlgoRSASHA256)
	if err != nil {
		return "", fmt.Errorf("sign with %s: %w: %w", c.o.Config.SSHKey, err, backends.ErrPermission)
	}
	return base64.StdEncoding.EncodeToString(ssh.Marshal(sig)), nil
}

// sshKey reads the key, which has to be one of RSA: the server knows no others.
func (c *Client) sshKey() (ssh.AlgorithmSigner, error) {
	name := c.o.Config.SSHKey
	b, err := readOwn(name)
	if err != nil {
		return nil, fmt.Errorf("ssh_private_key: %w: %w", err, backends.ErrPermission)
	}
	key, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("ssh_private_key %s has a passphrase; a key without one is needed: %w", name, backends.ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("ssh_private_key %s is no key (%v): %w", name, err, backends.ErrDamaged)
	case key.PublicKey().Type() != ssh.KeyAlgoRSA:
		return nil, fmt.Errorf("ssh_private_key %s is of type %s; Rucio takes ssh-rsa only: %w", name, key.PublicKey().Type(), backends.ErrNotSupported)
	}
	signer, ok := key.(ssh.AlgorithmSigner)
	if !ok {
		return nil, fmt.Errorf("ssh_private_key %s cannot sign by rsa-sha2-256: %w", name, backends.ErrNotSupported)
	}
	return signer, nil
}
