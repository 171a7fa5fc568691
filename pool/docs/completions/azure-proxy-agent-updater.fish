# Completion of azure-proxy-agent-updater for fish.
set -l commands register run status help
complete -c azure-proxy-agent-updater -f
complete -c azure-proxy-agent-updater -n "not __fish_seen_subcommand_from $commands" -a register -d 'Make this machine an agent of a pool'
complete -c azure-proxy-agent-updater -n "not __fish_seen_subcommand_from $commands" -a run -d 'Be the daemon'
complete -c azure-proxy-agent-updater -n "not __fish_seen_subcommand_from $commands" -a status -d 'What it is, and what it does'
complete -c azure-proxy-agent-updater -n "not __fish_seen_subcommand_from $commands" -a help -d 'A short help'
complete -c azure-proxy-agent-updater -l config -r -F -d 'Read this configuration'
complete -c azure-proxy-agent-updater -s v -l version -d 'Print the version'
complete -c azure-proxy-agent-updater -s h -l help -d 'Print a short help'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from status' -l json -d 'For programs'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from register' -l server -x -d 'The controller'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from register' -l pool -x -d 'The pool'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from register' -l token-file -r -F -d 'The one-time token'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from register' -l name -x -d 'Name of the agent'
complete -c azure-proxy-agent-updater -n '__fish_seen_subcommand_from register' -l ca -r -F -d 'Certificates that the controller must come from'
