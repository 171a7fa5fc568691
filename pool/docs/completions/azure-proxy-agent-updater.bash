# Completion of azure-proxy-agent-updater for bash.
_azure_proxy_agent_updater() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word command=''
    case $previous in
        --config | --token-file | --ca) COMPREPLY=($(compgen -f -- "$current")); return ;;
        --server | --pool | --name) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in register | run | status | help) command=$word ;; esac
    done
    case $command in
        '') COMPREPLY=($(compgen -W 'register run status help --config --version --help' -- "$current")) ;;
        register) COMPREPLY=($(compgen -W '--server --pool --token-file --name --ca --config --help' -- "$current")) ;;
        status) COMPREPLY=($(compgen -W '--json --config --help' -- "$current")) ;;
        run) COMPREPLY=($(compgen -W '--config --help' -- "$current")) ;;
    esac
}
complete -F _azure_proxy_agent_updater azure-proxy-agent-updater
