//! What is read from an object, whatever else is in it: its type, and from its metadata the name, namespace, uid and
//! resourceVersion.

/// apiVersion and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeMeta {
    /// `apiVersion`, for example `apps/v1`.
    pub api_version: String,
    /// `kind`, for example `Deployment`.
    pub kind: String,
}

/// What is known of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its own apiVersion and kind; empty where it is bare.
    pub type_meta: TypeMeta,
    /// `metadata.namespace`; empty for what has none.
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub resource_version: String,
    /// The annotation with which kube-apiserver ends the initial events of a watch
    /// (`staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go`, `InitialEventsAnnotationKey`).
    pub initial_events_end: bool,
    /// JSON: how many bytes after the opening brace are `kind` and `apiVersion`, in this order and nothing else, as every
    /// typed object begins; 0: it begins otherwise.
    pub type_prefix: usize,
}

impl Facts {
    /// Whether all is known by which an object is recorded: its type and its version.
    pub fn is_known(&self) -> bool {
        let version = !self.uid.is_empty() && !self.resource_version.is_empty();
        version && !self.type_meta.kind.is_empty() && !self.type_meta.api_version.is_empty()
    }
}
