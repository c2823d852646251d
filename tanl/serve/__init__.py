"""A guard as a service: a REST interface and a page, for the extra ``serve``."""
