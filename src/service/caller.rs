//! Who calls, and what they may do. A caller's roles are given by the operator's mapping; nobody
//! has any by default.

/// What a caller is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sends events in.
    Ingest,
    /// Begins routine runs, and reads runs.
    Orchestrator,
    /// Everything.
    Operator,
    /// Reads rated usage and its changes.
    Reader,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 4] = [Role::Ingest, Role::Orchestrator, Role::Operator, Role::Reader];

    /// As the mapping writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Ingest => "ingest",
            Role::Orchestrator => "orchestrator",
            Role::Operator => "operator",
            Role::Reader => "reader",
        }
    }
}

/// Somebody who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The authenticated name; empty where the service asks for none.
    pub name: String,
    /// What they may do.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Whoever calls a service that asks for no identity: they may do everything.
    pub fn unidentified() -> Caller {
        Caller { name: String::new(), roles: Role::ALL.to_vec() }
    }

    /// Whether the caller has a role, or every one.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role) || self.roles.contains(&Role::Operator)
    }
}
