"""Numbers of TLS records and of mbedTLS; a board never imports this: its files hold the numbers."""

# Record types (RFC 8446 section 5.1).
CHANGE_CIPHER_SPEC = 20
ALERT = 21
HANDSHAKE = 22
APPLICATION_DATA = 23

# Bytes of a record's header; in DTLS it has 8 more: epoch and number.
HEADER = 5

# Level of an alert (RFC 5246 section 7.2).
FATAL = 2

# MBEDTLS_SSL_VERIFY_REQUIRED
CERT_REQUIRED = 2
