"""What the stories are told with: the cluster's API, the operator as a process, load, watches, a source of models."""
