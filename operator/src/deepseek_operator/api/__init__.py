"""The custom resource: its fields (`v1alpha1`) and the yaml made of them (`crd`)."""
