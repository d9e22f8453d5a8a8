"""Weather rendered on clean photographs."""
