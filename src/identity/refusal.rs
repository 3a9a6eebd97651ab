//! Why somebody is nobody, in words that may travel: none of them repeats what was shown.

/// Why a caller is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Neither certificate nor token.
    #[error("who calls is unknown; show a client certificate or a bearer token")]
    Nothing,
    /// Something else than one bearer token.
    #[error("the authorization is not one bearer token; write \"Bearer TOKEN\", once")]
    NotBearer,
    /// There is no issuer whose tokens count.
    #[error("bearer tokens are not taken here; show a client certificate")]
    NoTokens,
    /// No JWT, or one that says something unreadable.
    #[error("the token can't be read")]
    Unreadable,
    /// An algorithm that is not taken, or a key that is not known.
    #[error("the token is not signed by a key that is known here")]
    UnknownKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// Somebody else's.
    #[error("the token's issuer is not the one that is known here")]
    Issuer,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Too late.
    #[error("the token has expired")]
    TokenExpired,
    /// Too early.
    #[error("the token is not valid yet")]
    TokenNotYet,
    /// Too late.
    #[error("the client certificate has expired")]
    CertificateExpired,
    /// Its authority is not one any more.
    #[error("the client certificate's authority is not known here any more")]
    CertificateUnknown,
    /// Without a name that counts.
    #[error("the client certificate has no URI and no DNS name")]
    Nameless,
}
