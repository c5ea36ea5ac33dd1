"""What is said on the wire: requests, answers, events, headers and errors of the OpenAI API. Pure."""
